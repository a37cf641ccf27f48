-- begin marks an action as started before any byte of it is sent.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, index, token, worker, token of the holder to take a group from or ''
-- returns: {verdict, token, attempt, first ms, started ms, worker, expires ms, target, sealed action,
--           sealed record of the group that the action leads, or '', attempts before the batch
--           was retried, sealed result that it had then, or ''}
--          verdict: 'run' | 'interrupted' | 'ended' | 'gone' | 'waiting', the last three alone; for
--          'interrupted' the rest tells of the earlier holder
--          | {'held', token, worker} for a group that another holds
-- The first action of a group begins the whole group. A group that was begun is
-- taken over: its record tells how far it is.
-- Repeating a begin with the same token answers as the first did.
local m = redis.call('HMGET', KEYS[1], 'status', 'expires', 'target', 'gone', 'groups', 'retried')
local index, token = ARGV[3], ARGV[4]
local state = redis.call('GETRANGE', KEYS[2], index, index)
if not m[1] or state == '' then
  return {'gone'}
end
if state == 'w' or state == 'g' then
  return {'waiting'}
end
if state ~= 'p' and state ~= 'r' then
  return {'ended'}
end
local now = now_ms()
local e = read_entry(KEYS[3], index) or {attempts = 0, earlier = 0, first = ms(now), started = ms(now)}
local verdict = 'run'
local members, record, _
if m[5] then
  members, _, record = read_group(KEYS[6], index)
end
if state == 'r' and e.token == token then
  -- the same begin once more
elseif state == 'r' and not members then
  verdict = 'interrupted'
elseif state == 'r' and e.token ~= ARGV[6] then
  return {'held', e.token, e.worker}
elseif state == 'p' and now >= tonumber(m[2]) then
  end_waiting(KEYS, 'X', 'expired')
  settle(KEYS, ARGV[1], ARGV[2], now)
  return {'ended'}
else
  if state == 'p' and m[6] and tonumber(e.started) <= tonumber(m[6]) then
    e.earlier, e.first = e.attempts, ms(now) -- a retry counts anew
  end
  e.token, e.attempts, e.started, e.worker = token, e.attempts + 1, ms(now), ARGV[5]
  if e.attempts == 1 then
    e.first = e.started
  end
  if members and state == 'p' then
    for member in string.gmatch(members, '%d+') do
      redis.call('SETRANGE', KEYS[2], member, 'g')
    end
  end
  redis.call('SETRANGE', KEYS[2], index, 'r')
  write_entry(KEYS[3], index, e)
  if m[1] == 'queued' then
    redis.call('HSET', KEYS[1], 'status', 'running', 'started', ms(now))
    redis.call('PEXPIREAT', KEYS[3], m[4])
  end
end
return {verdict, e.token, e.attempts, e.first, e.started, e.worker, m[2], m[3], redis.call('HGET', KEYS[4], index), record or '',
  e.earlier, m[6] and redis.call('HGET', KEYS[5], index) or ''}
