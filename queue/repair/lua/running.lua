-- running lists the actions of a batch that are in flight, by ascending index.
-- KEYS: state, ledger
-- ARGV: most actions to list
-- returns: {index, ledger entry, ...}
local states = redis.call('GET', KEYS[1])
if not states then
  return {}
end
local indexes, at = {}, 0
while #indexes < tonumber(ARGV[1]) do
  at = string.find(states, 'r', at + 1, true)
  if not at then
    break
  end
  indexes[#indexes + 1] = string.format('%d', at - 1)
end
if #indexes == 0 then
  return {}
end
local answer = {}
for n, entry in ipairs(redis.call('HMGET', KEYS[2], unpack(indexes))) do
  if entry then
    answer[#answer + 1] = indexes[n]
    answer[#answer + 1] = entry
  end
end
return answer
