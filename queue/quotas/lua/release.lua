-- release removes batches from an account: they were deleted, or will not exist.
-- KEYS: entries, looks, sums, spare bytes (account.lua)
-- ARGV: batch ids
-- returns: 1
for _, id in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], id) == 1 then
    put(KEYS, id)
  end
end
return 1
