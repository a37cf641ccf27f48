-- read_results returns the states of up to limit actions, their results up to the one that exceeds
-- the given bytes, and how many bytes are left. A missing result is an empty string.
local function read_results(state, results, from, limit, bytes)
  local states, found = redis.call('GETRANGE', state, from, from + limit - 1), {}
  for i = 1, #states do
    local result = redis.call('HGET', results, string.format('%d', from + i - 1)) or ''
    found[i] = result
    bytes = bytes - #result
    if bytes <= 0 then
      break
    end
  end
  return states, found, bytes
end
