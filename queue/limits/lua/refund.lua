-- refund returns a part of the admission of an upload or a retry whose actions will not run.
-- KEYS: counts by slice (hash), grants (hash), note of this refund (string)
-- ARGV: grant, slice that counts the actions, number of actions
-- returns: 1
-- Repeating it within a minute changes nothing.
if not redis.call('SET', KEYS[3], 1, 'NX', 'PX', 60000) then
  return 1
end
local n = tonumber(ARGV[3])
local given, ended = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+)|(%d+)$')
if given and tonumber(given) > n then
  redis.call('HSET', KEYS[2], ARGV[1], (tonumber(given) - n) .. '|' .. ended)
else
  redis.call('HDEL', KEYS[2], ARGV[1])
end
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 and redis.call('HINCRBY', KEYS[1], ARGV[2], -n) <= 0 then
  redis.call('HDEL', KEYS[1], ARGV[2])
end
return 1
