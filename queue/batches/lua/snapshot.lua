-- look reads the head of a batch, and some of its results as far as they are not too large.
-- KEYS: meta, state, results
-- ARGV: the first action, the most results, the most bytes of them, and the most actions
--       of a batch that has to have ended for its results to be wanted, or 0 if any are
-- returns: {fields and values of the meta hash in turn, states of as many actions, results of the first ones}
local meta = redis.call('HGETALL', KEYS[1])
local from, limit, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if ARGV[4] ~= '0' then
  local m = redis.call('HMGET', KEYS[1], 'pending', 'total')
  if m[1] ~= '0' or tonumber(m[2]) > tonumber(ARGV[4]) then
    return {meta, '', {}}
  end
end
local states, results = read_results(KEYS[2], KEYS[3], from, limit, bytes)
return {meta, states, results}
