-- due keeps a batch for a delivery of its webhook that is about to be enqueued.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries
-- ARGV: number of the delivery, hold ms
-- returns: 'ok' | 'done' if the outbox mark is cleared or that of another delivery | 'gone'
-- Repeating it changes nothing.
local m = redis.call('HMGET', KEYS[1], 'gone', 'outbox')
if not m[1] then
  return 'gone'
end
if m[2] ~= ARGV[1] then
  return 'done'
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'next', ms(now))
local at = math.max(tonumber(m[1]), now + tonumber(ARGV[2]))
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, ms(at))
end
return 'ok'
