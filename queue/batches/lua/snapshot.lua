-- snapshot reads the hash of a batch, and the states and results of some actions.
-- KEYS: meta, state, results
-- ARGV: index of the first action, most actions, or 0 for the hash alone, bytes after which the results end, or 0
--       for states alone, and 0, or the most actions of a batch whose results it reads, which it then does only if
--       the batch has ended; then the owner who reads, or nothing if batchd itself does
-- returns: {fields and values of the meta hash in turn, states of the actions, results of the first of them, or
--          false for states alone, number of states, or all states if the batch has ended and the first action is 0} |
--          {the same hash, '', {}} if it reads no states | {{}, '', {}} if there is no such batch, or the owner has
--          none with this id
if ARGV[5] and redis.call('HGET', KEYS[1], 'owner') ~= ARGV[5] then
  return {{}, '', {}}
end
local meta = redis.call('HGETALL', KEYS[1])
local from, limit, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if limit == 0 then
  return {meta, '', {}}
end
local m = redis.call('HMGET', KEYS[1], 'pending', 'total')
local all = m[1] == '0' and from == 0 and redis.call('GET', KEYS[2]) or redis.call('STRLEN', KEYS[2])
if bytes == 0 then
  return {meta, redis.call('GETRANGE', KEYS[2], from, from + limit - 1), false, all}
end
if ARGV[4] ~= '0' and (m[1] ~= '0' or (tonumber(m[2] or '') or 0) > tonumber(ARGV[4])) then
  return {meta, '', {}}
end
local states, results = read_results(KEYS[2], KEYS[3], from, limit, bytes)
return {meta, states, results, all}
