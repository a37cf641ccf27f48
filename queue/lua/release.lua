-- release puts an action back, to wait for its next attempt. If its batch is
-- ending, the action ends with it.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, index, token
-- returns: {'released' | 'ended' | 'stale' | 'gone', '1' if this ended the batch and a webhook is to be sent}
-- Repeating a release that nothing followed answers as the first did.
local m = redis.call('HMGET', KEYS[1], 'ending', 'expires')
if not m[2] then
  return {'gone', '0'}
end
local index, token = ARGV[3], ARGV[4]
local e = read_entry(KEYS[3], index)
if not e or e.token ~= token then
  return {'stale', '0'}
end
local state = redis.call('GETRANGE', KEYS[2], index, index)
if state == 'p' then
  return {'released', '0'}
end
if state ~= 'r' then
  return {(state == 'C' or state == 'X') and 'ended' or 'stale', '0'}
end
local now = now_ms()
if not m[1] and now >= tonumber(m[2]) then
  m[1] = 'expired'
  end_waiting(KEYS, 'X', m[1])
end
if m[1] then
  local to = m[1] == 'cancelled' and 'C' or 'X'
  redis.call('SETRANGE', KEYS[2], index, to)
  move(KEYS[1], 'r', to, 1)
  return {'ended', settle(KEYS, ARGV[1], ARGV[2], now)}
end
redis.call('SETRANGE', KEYS[2], index, 'p')
return {'released', '0'}
