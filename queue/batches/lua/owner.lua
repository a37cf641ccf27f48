-- owner finds out which of some owners has a batch.
-- KEYS: meta
-- ARGV: the owners; none means all
-- returns: the owner | '' if there is no such batch, or none of the owners has it
local owner = redis.call('HGET', KEYS[1], 'owner')
for _, name in ipairs(ARGV) do
  if owner == name then
    return owner
  end
end
return #ARGV == 0 and owner or ''
