-- progress notes how far the fan-out of a batch has come, and when.
-- KEYS: meta
-- ARGV: number of actions enqueued
-- returns: 1 to go on | 0 if the batch has ended, is ending, or is gone
local m = redis.call('HMGET', KEYS[1], 'enqueued', 'ending')
if not m[1] then
  return 0
end
if tonumber(ARGV[1]) > tonumber(m[1]) then
  redis.call('HSET', KEYS[1], 'enqueued', ARGV[1])
end
redis.call('HSET', KEYS[1], 'fanned', ms(now_ms()))
return m[2] and 0 or 1
