-- progress notes how far the fan-out of a batch has come, and when.
-- KEYS: meta
-- ARGV: number of actions enqueued, token of the round's grant or '' in the first round
-- returns: 1 to go on | 0 if the batch has ended, is ending, is gone, or was retried
local m = redis.call('HMGET', KEYS[1], 'enqueued', 'ending', 'grant')
if not m[1] or (m[3] or '') ~= ARGV[2] then
  return 0
end
if tonumber(ARGV[1]) > tonumber(m[1]) then
  redis.call('HSET', KEYS[1], 'enqueued', ARGV[1])
end
redis.call('HSET', KEYS[1], 'fanned', ms(now_ms()))
return m[2] and 0 or 1
