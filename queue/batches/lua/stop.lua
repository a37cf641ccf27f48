-- stop ends every waiting action of a batch that a client cancels or whose deadline has passed. As
-- overdue, it ends every running action instead: the caller calls it so late that no worker can still
-- run one.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, owner or '' for any, 'cancelled', 'expired' or 'overdue'
-- returns: {'ok' | 'terminal' | 'early' | 'gone', number of the webhook's delivery if the step ended the batch,
--          or '0'}; after 'ok' also owner, target, lane, and round or '': no action of the batch waits any more
-- Repeating it changes nothing.
local m = redis.call('HMGET', KEYS[1], 'owner', 'status', 'expires', 'target', 'lane', 'round')
if not m[1] or (ARGV[3] ~= '' and m[1] ~= ARGV[3]) then
  return {'gone', '0'}
end
if m[2] == 'cancelled' and ARGV[4] == 'cancelled' then
  return {'ok', '0'}
end
if m[2] == 'completed' or m[2] == 'cancelled' or m[2] == 'expired' then
  return {'terminal', '0'}
end
local now = now_ms()
if ARGV[4] == 'cancelled' then
  if m[2] ~= 'cancelling' then
    redis.call('HSET', KEYS[1], 'status', 'cancelling')
  end
  end_waiting(KEYS, 'C', 'cancelled')
elseif ARGV[4] == 'overdue' then
  local states = redis.call('GET', KEYS[2])
  local changed, n = string.gsub(states, '[rg]', 'O')
  redis.call('SETRANGE', KEYS[2], 0, changed)
  move(KEYS[1], 'r', 'O', n)
else
  if now < tonumber(m[3]) then
    return {'early', '0'}
  end
  end_waiting(KEYS, 'X', 'expired')
end
return {'ok', settle(KEYS, ARGV[1], ARGV[2], now), m[1], m[4] or '', m[5] or '', m[6] or ''}
