-- read reads states and results of actions at one moment.
-- KEYS: state, results
-- ARGV: indexes of the first and of the last action whose states it reads, then those of the results, at most 1,000
-- returns: {states, result or false for each index}
local results = {}
if #ARGV > 2 then
  results = redis.call('HMGET', KEYS[2], unpack(ARGV, 3))
end
return {redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[2]), results}
