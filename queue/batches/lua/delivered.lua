-- delivered records an attempt at a webhook and what follows from it. When
-- nothing more follows, the batch is kept for the rest of its retention.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries
-- ARGV: number of the delivery, round of the event, sealed attempt, delivery state, next attempt ms or '',
--       most entries in the log, hold ms, id of the attempt
-- returns: 'ok' | 'stale' if the delivery was withdrawn or has come to its end: the attempt is in the log, and
--          nothing follows from it | 'gone'
-- Repeating it with the same id answers as the first did, however the attempt is sealed.
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
  -- The batch was retried while the attempt was under way: its receiver knows of that end all the same.
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
  redis.call('HDEL', KEYS[1], 'outbox') -- its task exists, whatever became of the process that enqueued it
end
local now, at = now_ms(), tonumber(m[1])
if ARGV[4] == 'pending' then
  at = math.max(at, now + tonumber(ARGV[7]))
end
at = math.max(at, now + 600000) -- the receiver, which knows of the end now, comes to read the results
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, ms(at))
end
return 'ok'
