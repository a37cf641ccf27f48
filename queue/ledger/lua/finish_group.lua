-- finish_group ends all members of a group in one step. The first write wins.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, index of the first member, token, '1' if results do not need room (room.lua), then
--       index, state and sealed result of each member, beginning with the first member; an empty result stands
--       for the result that save_group stored
-- returns: {verdict, number of the webhook's delivery if this ended the batch, or '0'} |
--          {'room', '0', bytes that the results need, and the rest of the answer of no_room}: nothing has changed
--          verdict: 'ok' | 'stale' | 'gone' | 'forgotten': a result that save_group stored is missing
-- Repeating the write that won returns 'ok' and changes nothing.
local m = redis.call('HMGET', KEYS[1], 'gone', 'stored', 'room', 'round')
local gone, stored = m[1], tonumber(m[2] or '0')
if not gone then
  return {'gone', '0'}
end
local leader = ARGV[3]
local e = read_entry(KEYS[3], leader)
if not e or e.token ~= ARGV[4] then
  return {'stale', '0'}
end
local state = redis.call('GETRANGE', KEYS[2], leader, leader)
if state ~= 'r' then
  return {state == ARGV[7] and 'ok' or 'stale', '0'}
end
local more, large, largest = 0, 0, 0 -- of the results that are not small
for i = 6, #ARGV, 3 do
  local had = redis.call('HSTRLEN', KEYS[5], ARGV[i])
  if ARGV[i + 2] ~= '' then
    more = more + #ARGV[i + 2] - had
    if #ARGV[i + 2] > SMALL then
      large, largest = large + #ARGV[i + 2] - had, math.max(largest, #ARGV[i + 2])
    end
  elseif had == 0 then
    return {'forgotten', '0'}
  end
end
if ARGV[5] ~= '1' and not fits(m[3], stored, largest, large) then
  local answer = no_room(KEYS[1], stored, m[3], m[4])
  answer[1] = string.format('%.0f', large)
  return {'room', '0', unpack(answer)}
end
redis.call('HINCRBY', KEYS[1], 'stored', string.format('%.0f', more))
for i = 6, #ARGV, 3 do
  redis.call('SETRANGE', KEYS[2], ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] ~= '' then
    redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 2])
  end
  move(KEYS[1], 'r', ARGV[i + 1], 1)
end
redis.call('PEXPIREAT', KEYS[5], gone)
redis.call('HDEL', KEYS[6], leader)
return {'ok', settle(KEYS, ARGV[1], ARGV[2], now_ms())}
