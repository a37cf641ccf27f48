-- set_room gives an open batch the room that was reserved for it.
-- KEYS: meta of the batch
-- ARGV: round of the batch, or '' in the first round, how often its room was lowered when the worker asked, or '',
--       room in bytes, ms at which the reservation ends
-- returns: 'ok' | 'late': the reservation is over | 'over': the batch has ended, is in another round, has no room, is
--          gone, or its room was lowered since, so that the account no longer counts the reservation
-- Repeating the step, or running it late, changes nothing.
local m = redis.call('HMGET', KEYS[1], 'room', 'round', 'ended', 'lowered')
if not m[1] or (m[2] or '') ~= ARGV[1] or m[3] or (m[4] or '') ~= ARGV[2] then
  return {'over'}
end
if now_ms() > tonumber(ARGV[4]) then
  return {'late'}
end
if tonumber(m[1]) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'room', ARGV[3])
end
return {'ok'}
