-- unclaim removes an idempotency key that still names an upload, which will not commit.
-- KEYS: idempotency key
-- ARGV: batch id of the upload
-- returns: 1 if it was removed, or 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
