-- finish records the results of actions that have begun. The first write wins.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, name of the process if requests of it wait for the batch, or '', the most
--       actions and the most bytes of results of a batch that this step returns whole, '1' if results
--       do not need room (room.lua), then index, token, state and sealed result of each action, by
--       ascending index
-- returns: {number of the webhook's delivery if this ended the batch, or '0', ended, then for each
--          action 1 | 'stale' | 'gone' | the answer of no_room, and the action stays as it was}
--          ended: '' if the batch has not ended, or if no request of the process waits for it |
--          {fields and values of the meta hash, states, results, number of states} | 1 if the batch has ended but is
--          too large, or ended in an earlier run
-- The message on the channel names the process. That process ignores the message, since it hands the
-- batch to its requests.
-- Repeating the write that won returns 1 and changes nothing.
local m = redis.call('HMGET', KEYS[1], 'gone', 'round', 'stored', 'room')
local gone = m[1]
local answer = {'0', ''}
if not gone then
  for _ = 7, #ARGV, 4 do
    answer[#answer + 1] = 'gone'
  end
  return answer
end
local first, last = tonumber(ARGV[7]), tonumber(ARGV[#ARGV - 3])
local states = redis.call('GETRANGE', KEYS[2], first, last)
local indexes = {}
for i = 7, #ARGV, 4 do
  indexes[#indexes + 1] = ARGV[i]
end
local entries = redis.call('HMGET', KEYS[3], unpack(indexes))
local ended, becomes, written, counts, stored = {}, {}, {}, {}, tonumber(m[3] or '0')
local before, room = stored, ARGV[6] ~= '1' and m[4]
for n, index in ipairs(indexes) do
  local token, to, sealed = ARGV[4 * n + 4], ARGV[4 * n + 5], ARGV[4 * n + 6]
  local number = tonumber(index)
  local at = number - first + 1
  local state = string.sub(states, at, at)
  if not entries[n] or string.match(entries[n], '^[^|]*') ~= token then
    answer[#answer + 1] = 'stale'
  elseif state ~= 'r' then
    answer[#answer + 1] = state == to and 1 or 'stale'
  else
    local more = #sealed
    if m[2] then -- an earlier round may have left a result
      more = more - redis.call('HSTRLEN', KEYS[5], index)
    end
    if fits(room, stored, #sealed, more) then
      ended[#ended + 1] = number
      becomes[#becomes + 1] = to
      written[#written + 1] = index
      written[#written + 1] = sealed
      stored = stored + more
      counts[to] = (counts[to] or 0) + 1
      answer[#answer + 1] = 1
    else
      answer[#answer + 1] = no_room(KEYS[1], stored, room, m[2])
    end
  end
end
if #ended == 0 then
  if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'pending') == '0' then
    answer[2] = 1 -- the reply of an earlier run may have been lost
  end
  return answer
end
put_states(KEYS[2], ended, becomes)
if redis.call('HSET', KEYS[5], unpack(written)) == redis.call('HLEN', KEYS[5]) then
  redis.call('PEXPIREAT', KEYS[5], gone)
end
redis.call('HINCRBY', KEYS[1], 'stored', string.format('%.0f', stored - before))
local left
for to, n in pairs(counts) do
  left = move(KEYS[1], 'r', to, n)
end
if left == 0 then
  local message = ARGV[1]
  if ARGV[3] ~= '' then
    message = message .. ' ' .. ARGV[3]
  end
  answer[1] = settle(KEYS, message, ARGV[2], now_ms())
  if ARGV[3] ~= '' then
    local total = tonumber(redis.call('HGET', KEYS[1], 'total'))
    answer[2] = 1
    if total <= tonumber(ARGV[4]) then
      local states, results, bytes = read_results(KEYS[2], KEYS[5], 0, total, tonumber(ARGV[5]))
      if bytes > 0 then
        answer[2] = {redis.call('HGETALL', KEYS[1]), states, results, redis.call('STRLEN', KEYS[2])}
      end
    end
  end
end
return answer
