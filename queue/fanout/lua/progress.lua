-- progress records the index up to which the actions of a batch are enqueued, and the time.
-- KEYS: meta
-- ARGV: index up to which the actions are enqueued, token of the round's grant or '' in the first round
-- returns: 1 if the fan-out continues | 0 if the batch has ended, is ending, is gone, or was retried
-- Repeating it changes only the time.
local m = redis.call('HMGET', KEYS[1], 'enqueued', 'ending', 'grant')
if not m[1] or (m[3] or '') ~= ARGV[2] then
  return 0
end
if tonumber(ARGV[1]) > tonumber(m[1]) then
  redis.call('HSET', KEYS[1], 'enqueued', ARGV[1])
end
redis.call('HSET', KEYS[1], 'fanned', ms(now_ms()))
return m[2] and 0 or 1
