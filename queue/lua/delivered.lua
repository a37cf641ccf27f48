-- delivered records an attempt at a webhook and what follows from it. When
-- nothing more follows, the batch is kept for the rest of its retention.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries
-- ARGV: sealed attempt or '', delivery state, next attempt ms or '', most entries in the log, hold ms
-- returns: 'ok' | 'gone'
local gone = redis.call('HGET', KEYS[1], 'gone')
if not gone then
  return 'gone'
end
redis.call('HSET', KEYS[1], 'delivery', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'next', ARGV[3])
else
  redis.call('HDEL', KEYS[1], 'next')
end
if ARGV[1] ~= '' then
  redis.call('RPUSH', KEYS[7], ARGV[1])
  redis.call('LTRIM', KEYS[7], -tonumber(ARGV[4]), -1)
end
local at = tonumber(gone)
if ARGV[2] == 'pending' then
  at = math.max(at, now_ms() + tonumber(ARGV[5]))
end
at = math.max(at, now_ms() + 600000) -- whoever was told just now comes to look
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, ms(at))
end
return 'ok'
