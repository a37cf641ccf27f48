-- release puts an action back, so that it waits for its next attempt. If the batch is ending, the
-- action ends with it.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, index, token, '1' if the worker sent nothing of the action, sealed result
--       of the attempt if the worker sent it
-- returns: {'released' | 'ended' | 'stale' | 'gone', number of the webhook's delivery if this ended
--          the batch, or '0', then owner, target, lane and round if this ended the waiting actions}
-- If the worker sent nothing, the attempt does not count, and a begin with the same token that
-- arrives later begins nothing. The first action of a group puts the whole group back. If the group's
-- record says that a worker sent a part of the group, the group stays begun, and the next worker that
-- begins it continues from the record.
-- Repeating a release returns the same answer, unless another step has changed the action since.
local m = redis.call('HMGET', KEYS[1], 'ending', 'expires', 'groups', 'gone', 'round', 'owner', 'target', 'lane')
if not m[2] then
  return {'gone', '0'}
end
local index, token, unsent = ARGV[3], ARGV[4], ARGV[5] == '1'
local e = read_entry(KEYS[3], index)
local state = redis.call('GETRANGE', KEYS[2], index, index)
local now = now_ms()
if not e or e.token ~= token then
  if unsent and state == 'p' then
    e = e or {attempts = 0, first = ms(now), started = ms(now), earlier = 0, round = m[5] or '', worker = ''}
    e.token = token
    write_entry(KEYS[3], index, e)
    redis.call('PEXPIREAT', KEYS[3], m[4])
  end
  return {'stale', '0'}
end
if state == 'p' then
  return {'released', '0'}
end
if state ~= 'r' then
  return {(state == 'C' or state == 'X') and 'ended' or 'stale', '0'}
end
local members, number, _
if m[3] then
  members, number, _ = read_group(KEYS[6], index)
end
if members and number ~= '0' then
  e.worker = ''
  write_entry(KEYS[3], index, e)
  return {'released', '0'}
end
if unsent then
  e.attempts = e.attempts - 1
  write_entry(KEYS[3], index, e)
else
  redis.call('HINCRBY', KEYS[1], 'stored', 1 + #ARGV[6] - redis.call('HSTRLEN', KEYS[6], last_of(index)))
  redis.call('HSET', KEYS[6], last_of(index), 'p' .. ARGV[6])
  redis.call('PEXPIREAT', KEYS[6], m[4])
end
local expired = not m[1] and now >= tonumber(m[2])
if expired then
  m[1] = 'expired'
  end_waiting(KEYS, 'X', m[1])
end
local to, others = 'p', 'w'
if m[1] then
  to = m[1] == 'cancelled' and 'C' or 'X'
  others = to
end
local n = 0
for member in string.gmatch(members or index, '%d+') do
  redis.call('SETRANGE', KEYS[2], member, member == index and to or others)
  n = n + 1
end
if not m[1] then
  return {'released', '0'}
end
move(KEYS[1], 'r', to, n)
local delivery = settle(KEYS, ARGV[1], ARGV[2], now)
if expired then
  return {'ended', delivery, m[6] or '', m[7] or '', m[8] or '', m[5] or ''}
end
return {'ended', delivery}
