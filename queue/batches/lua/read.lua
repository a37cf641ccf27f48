-- read reads states and results of actions at one moment.
-- KEYS: state, results
-- ARGV: indexes of the first and of the last action whose states it reads, then those of the results
-- returns: {states, result or false for each index}
local results = {}
for i = 3, #ARGV do
  results[i - 2] = redis.call('HGET', KEYS[2], ARGV[i])
end
return {redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[2]), results}
