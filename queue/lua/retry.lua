-- retry has actions of a batch that has ended run again: the same batch, the
-- same places.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries
-- ARGV: owner, states to run again
-- returns: {'ok', number of actions, round, number of the webhook's delivery that this withdraws, or ''} | {'gone'} | {'not_terminal'} | {'groups'} | {'nothing'}
local m = redis.call('HMGET', KEYS[1], 'owner', 'ended', 'groups', 'created', 'expires', 'retention', 'round', 'retried', 'total', 'webhook', 'delivery', 'sending')
if m[1] ~= ARGV[1] then
  return {'gone'}
end
if not m[2] then
  return {'not_terminal'}
end
if m[3] then
  return {'groups'}
end
local before, moved = redis.call('GET', KEYS[2]), 0
local states = before
for state in string.gmatch(ARGV[2], '.') do
  local n
  states, n = string.gsub(states, state, 'p')
  if n > 0 then
    move(KEYS[1], state, 'p', n)
    moved = moved + n
  end
end
if moved == 0 then
  return {'nothing'}
end
-- What ended without a result keeps the state in which it did, for its history.
for _, field in ipairs(redis.call('HKEYS', KEYS[6])) do
  local index = string.match(field, '^o(%d+)$')
  local state = index and string.sub(before, index + 1, index + 1) or ''
  if (state == 'C' or state == 'X') and string.find(ARGV[2], state, 1, true) then
    redis.call('HSET', KEYS[6], field, state .. string.sub(redis.call('HGET', KEYS[6], field), 2))
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
  'round', round + 1, 'enqueued', m[9])
redis.call('HDEL', KEYS[1], 'ended', 'ending', 'outbox', 'next')
if m[10] then
  -- The event of the end that is over is withdrawn: another number makes what is under way stale.
  redis.call('HSET', KEYS[1], 'delivery', 'waiting', 'end:' .. round, m[11] == 'pending' and 'withdrawn' or m[11])
  redis.call('HINCRBY', KEYS[1], 'sending', 1)
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, ms(gone))
end
return {'ok', moved, round + 1, m[11] == 'pending' and m[12] or ''}
