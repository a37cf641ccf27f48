-- A batch may have room: the bytes up to which what it stores may grow before a worker must ask the accounts of its
-- owner for more. Without quotas of stored bytes a batch has no room, and any result fits.

-- fits reports whether a result of that size, which makes the batch store more bytes by more, fits into the room. A
-- small result always fits, and so does any that takes no more than the one that it replaces.
local function fits(room, stored, size, more)
  return not room or size <= SMALL or more <= 0 or tonumber(stored) + more <= tonumber(room)
end

-- no_room returns the answer for a result that does not fit: {'room', stored bytes, room, round or '', accounts, how
-- often the room was lowered or '', number of actions that have not ended}.
local function no_room(meta, stored, room, round)
  local m = redis.call('HMGET', meta, 'bounds', 'lowered', 'pending')
  return {'room', string.format('%.0f', stored), room, round or '', m[1] or '', m[2] or '', m[3] or '0'}
end
