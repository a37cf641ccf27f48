-- save_group writes a group's record, and the result of a member for the case that the group
-- succeeds.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: index of the first member, token, number of the record, sealed record,
--       index of the member or '', sealed result, '1' if the holder gives the group back, '1' if the
--       result does not need room (room.lua)
-- returns: {'ok' | 'stale' | 'gone', now ms, or '0' unless 'ok'} | the answer of no_room, and nothing has changed
-- A record that is not newer than the stored record changes nothing.
local m = redis.call('HMGET', KEYS[1], 'gone', 'stored', 'room', 'round')
local gone, stored = m[1], tonumber(m[2] or '0')
if not gone then
  return {'gone', '0'}
end
local leader = ARGV[1]
local e = read_entry(KEYS[3], leader)
local members, number, before = read_group(KEYS[6], leader)
if not e or e.token ~= ARGV[2] or not members or redis.call('GETRANGE', KEYS[2], leader, leader) ~= 'r' then
  return {'stale', '0'}
end
if tonumber(ARGV[3]) > tonumber(number) then
  local more = #ARGV[4] - #before
  if ARGV[5] ~= '' then
    local result = #ARGV[6] - redis.call('HSTRLEN', KEYS[5], ARGV[5])
    if ARGV[8] ~= '1' and not fits(m[3], stored, #ARGV[6], result) then
      return no_room(KEYS[1], stored, m[3], m[4])
    end
    more = more + result
  end
  redis.call('HINCRBY', KEYS[1], 'stored', string.format('%.0f', more))
  redis.call('HSET', KEYS[6], leader, members .. '|' .. ARGV[3] .. '|' .. ARGV[4])
  if ARGV[5] ~= '' then
    redis.call('HSET', KEYS[5], ARGV[5], ARGV[6])
    redis.call('PEXPIREAT', KEYS[5], gone)
  end
  if ARGV[7] == '1' then
    e.worker = ''
    write_entry(KEYS[3], leader, e)
  end
end
return {'ok', ms(now_ms())}
