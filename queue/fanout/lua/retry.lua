-- retry makes actions of an ended batch wait again, in the same batch and at the same indexes.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries, marker of the retry
-- ARGV: owner, states of the actions to run again, token of the retry and of its grant, number of actions that the
--       limit admitted, limit that throttles the actions, or '' if all are offered at once, bytes up to which the
--       batch may grow, and the accounts that bound it, or '' if none does
-- returns: {'ok', number of actions, number of the webhook delivery that the retry withdraws, or ''} | {'gone'} |
--          {'not_terminal'} | {'groups'} | {'nothing'} | {'changed'} if the number of actions differs |
--          {'lost'} if the marker is gone, so that the admitted actions no longer count as in flight
-- Repeating a retry that succeeded returns the same answer without the delivery.
local m = redis.call('HMGET', KEYS[1], 'owner', 'ended', 'groups', 'created', 'expires', 'retention', 'round', 'retried', 'total', 'webhook', 'delivery', 'sending',
  'grant', 'asked')
if m[1] ~= ARGV[1] then
  return {'gone'}
end
if m[13] == ARGV[3] then
  return {'ok', m[14], ''}
end
if not m[2] then
  return {'not_terminal'}
end
if m[3] then
  return {'groups'}
end
if redis.call('EXISTS', KEYS[8]) == 0 then
  return {'lost'}
end
local before, moved, counts = redis.call('GET', KEYS[2]), 0, {}
local states = before
for state in string.gmatch(ARGV[2], '.') do
  states, counts[state] = string.gsub(states, state, 'p')
  moved = moved + counts[state]
end
if moved == 0 then
  return {'nothing'}
end
if moved ~= tonumber(ARGV[4]) then
  return {'changed'}
end
for state, n in pairs(counts) do
  if n > 0 then
    move(KEYS[1], state, 'p', n)
  end
end
-- An action that ended without a result keeps that state in its history.
for _, field in ipairs(redis.call('HKEYS', KEYS[6])) do
  local index = string.match(field, '^o(%d+)$')
  local state = index and string.sub(before, index + 1, index + 1) or ''
  if (state == 'C' or state == 'X') and string.find(ARGV[2], state, 1, true) then
    local last = redis.call('HGET', KEYS[6], field)
    if string.sub(last, 1, 1) ~= 'O' then -- an overdue attempt of an earlier round keeps its state
      redis.call('HSET', KEYS[6], field, state .. string.sub(last, 2))
    end
  end
end
for at in string.gmatch(string.find(ARGV[2], 'O', 1, true) and before or '', '()O') do
  local e = read_entry(KEYS[3], at - 1)
  redis.call('HSET', KEYS[6], last_of(at - 1), 'O' .. (e and e.attempts .. '|' .. e.started or '0|'))
end
local round = tonumber(m[7] or '1')
local now = now_ms()
local expires = now + tonumber(m[5]) - tonumber(m[8] or m[4])
local gone = expires + tonumber(m[6]) + GRACE
redis.call('SETRANGE', KEYS[2], 0, states)
redis.call('HSET', KEYS[1], 'status', 'queued', 'expires', ms(expires), 'gone', ms(gone), 'retried', ms(now),
  'round', round + 1, 'grant', ARGV[3], 'asked', moved, 'expired_before', redis.call('HGET', KEYS[1], 'expired'))
redis.call('HDEL', KEYS[1], 'ended', 'ending', 'outbox', 'next', 'given')
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'enqueued', 0, 'handed', 0, 'throttle', ARGV[5])
else
  redis.call('HSET', KEYS[1], 'enqueued', m[9])
  redis.call('HDEL', KEYS[1], 'handed', 'throttle')
end
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[1], 'room', ARGV[6], 'bounds', ARGV[7])
else
  redis.call('HDEL', KEYS[1], 'room', 'bounds')
end
if m[10] then
  -- The retry withdraws the event of the earlier end: the new number makes a delivery that is under way stale.
  redis.call('HSET', KEYS[1], 'delivery', 'waiting', 'end:' .. round, m[11] == 'pending' and 'withdrawn' or m[11])
  redis.call('HINCRBY', KEYS[1], 'sending', 1)
end
for i = 1, 7 do
  redis.call('PEXPIREAT', KEYS[i], ms(gone))
end
redis.call('DEL', KEYS[8])
return {'ok', moved, m[11] == 'pending' and m[12] or ''}
