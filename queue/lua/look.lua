-- look reads the head of a batch, and some of its results as far as they are not too large.
-- KEYS: meta, state, results
-- ARGV: the first action, the most results, the most bytes of them, and the most actions
--       of a batch that has to have ended for its results to be wanted, or 0 if any are
-- returns: {fields and values of the meta hash in turn, states of as many actions, results of the first ones}
-- A result that is not there is an empty string.
local meta = redis.call('HGETALL', KEYS[1])
local from, limit, left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if ARGV[4] ~= '0' then
  local m = redis.call('HMGET', KEYS[1], 'pending', 'total')
  if m[1] ~= '0' or tonumber(m[2]) > tonumber(ARGV[4]) then
    return {meta, '', {}}
  end
end
local states = redis.call('GETRANGE', KEYS[2], from, from + limit - 1)
local results = {}
for i = 1, #states do
  local result = redis.call('HGET', KEYS[3], string.format('%d', from + i - 1)) or ''
  results[i] = result
  left = left - #result
  if left <= 0 then
    break
  end
end
return {meta, states, results}
