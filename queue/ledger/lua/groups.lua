-- read_group returns the indexes of a group's members as text, the number of its
-- record, and the sealed record.
local function read_group(key, leader)
  local packed = redis.call('HGET', key, leader)
  if not packed then
    return nil
  end
  return string.match(packed, '^([%d,]+)|(%d+)|(.*)$')
end
