-- snapshot reads the hash of a batch, and the states and results of some actions.
-- KEYS: meta, state, results
-- ARGV: index of the first action, most results, bytes after which the results end, and 0, or the most
--       actions of a batch whose results it reads, which it then does only if the batch has ended
-- returns: {fields and values of the meta hash in turn, states of the actions, results of the first of them}
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
