-- delivered records an attempt at a webhook, and the new state of its delivery. A delivery that is not
-- pending any more ends the extra time for which the batch is kept.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries
-- ARGV: number of the delivery, round of the event, sealed attempt, delivery state, next attempt ms or '',
--       most entries in the log, hold ms, id of the attempt
-- returns: 'ok' | 'stale' if the delivery was withdrawn or has ended: the attempt is in the log, and changes
--          nothing else | 'gone'
-- Repeating it with the same id returns the first reply, even if the attempt was sealed again.
local m = redis.call('HMGET', KEYS[1], 'gone', 'sending', 'delivery', 'outbox', 'round', 'logged')
if not m[1] then
  return 'gone'
end
local repeated = m[6] == ARGV[8]
if not repeated then
  redis.call('HSET', KEYS[1], 'logged', ARGV[8])
  redis.call('RPUSH', KEYS[7], ARGV[3])
  redis.call('LTRIM', KEYS[7], -tonumber(ARGV[6]), -1)
end
if m[2] ~= ARGV[1] or (m[3] ~= 'pending' and not (repeated and m[3] == ARGV[4])) then
  -- The batch was retried while the attempt ran. The receiver has got the event of the earlier round.
  local past = 'end:' .. ARGV[2]
  if ARGV[2] ~= (m[5] or '1') and ARGV[4] ~= 'pending' and redis.call('HGET', KEYS[1], past) == 'withdrawn' then
    redis.call('HSET', KEYS[1], past, ARGV[4])
  end
  redis.call('PEXPIRE', KEYS[7], redis.call('PTTL', KEYS[1]))
  return 'stale'
end
redis.call('HSET', KEYS[1], 'delivery', ARGV[4])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'next', ARGV[5])
else
  redis.call('HDEL', KEYS[1], 'next')
end
if m[4] == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'outbox') -- its task exists, though the process that enqueued it may have died since
end
local now, at = now_ms(), tonumber(m[1])
if ARGV[4] == 'pending' then
  at = math.max(at, now + tonumber(ARGV[7]))
end
at = math.max(at, now + 600000) -- the receiver has got the event and may read the results now
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, ms(at))
end
return 'ok'
