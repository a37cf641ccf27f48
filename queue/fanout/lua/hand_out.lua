-- hand_out selects the next actions of a throttled batch that its grant covers. The caller offers them.
-- KEYS: meta, state
-- ARGV: token of the grant, number of actions that the grant holds, most actions to select
-- returns: {index up to which the batch is handed out, then the index of each action}
-- In the first round the step selects all actions by index, and after a retry only the waiting ones. The batch
-- records the actions before they are offered, so no action is counted twice. If the caller never offers them,
-- they are the waiting actions from the index 'enqueued' to the index 'handed'.
local m = redis.call('HMGET', KEYS[1], 'total', 'ending', 'grant', 'handed', 'given', 'retried', 'asked')
local handed, given = tonumber(m[4] or '0'), tonumber(m[5] or '0')
if not m[1] or m[2] or (m[3] or '') ~= ARGV[1] then
  return {handed}
end
local total, asked = tonumber(m[1]), tonumber(m[7] or m[1])
local n = math.min(tonumber(ARGV[2]) - given, tonumber(ARGV[3]))
local answer = {handed}
if n <= 0 then
  return answer
end
if not m[6] then
  local upto = math.min(handed + n, total)
  for i = handed, upto - 1 do
    answer[#answer + 1] = i
  end
  handed = upto
else
  local window = 16384
  while handed < total and #answer <= n do
    local states = redis.call('GETRANGE', KEYS[2], handed, handed + window - 1)
    if states == '' then
      break
    end
    local at = 1
    while #answer <= n do
      at = string.find(states, 'p', at, true)
      if not at then
        break
      end
      answer[#answer + 1] = handed + at - 1
      at = at + 1
    end
    handed = handed + (at and at - 1 or #states)
  end
end
given = given + #answer - 1
if given >= asked or handed >= total then
  handed, given = total, asked
end
answer[1] = handed
redis.call('HSET', KEYS[1], 'handed', handed, 'given', given, 'fanned', ms(now_ms()))
return answer
