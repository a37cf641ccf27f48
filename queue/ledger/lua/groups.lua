-- read_group returns the indexes of a group's members as text, the number of the group's record, and
-- the sealed record. It returns nil if the action leads no group.
local function read_group(key, leader)
  local packed = redis.call('HGET', key, leader)
  if not packed then
    return nil
  end
  return string.match(packed, '^([%d,]+)|(%d+)|(.*)$')
end
