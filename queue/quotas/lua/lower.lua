-- lower takes the room from a batch that it does not use.
-- KEYS: meta of the batch
-- ARGV: bytes that a worker may be about to give to the batch, or 0
-- returns: {'lowered', stored bytes} | {'ended', stored bytes, ms at which the keys of the batch expire} |
--          {'busy'}: a worker is about to give it room | {'gone'}: there is no batch, or not yet
-- Workers that have reserved room before, but have not given it to the batch, must ask again (set_room.lua).
local m = redis.call('HMGET', KEYS[1], 'status', 'stored', 'gone', 'room', 'ended', 'taken')
if not m[1] then
  return {'gone'}
end
local stored = m[2] or '0'
if m[5] then
  return {'ended', stored, m[3] or '0'}
end
if m[4] then
  -- If a process lowered the room and has not corrected the account, the bytes are those that it lowered.
  if tonumber(ARGV[1]) > math.max(tonumber(m[4]), tonumber(stored)) and m[6] ~= ARGV[1] then
    return {'busy'}
  end
  redis.call('HINCRBY', KEYS[1], 'lowered', 1)
  if tonumber(m[4]) > tonumber(stored) then
    redis.call('HSET', KEYS[1], 'room', stored, 'taken', ARGV[1])
  end
end
return {'lowered', stored}
