-- reopen enters batches into a list of batches, and protects the entries against removal after an earlier
-- look at the batches.
-- KEYS: list, entries that were entered again (zset by time)
-- ARGV: hold ms, ids of the batches
-- returns: 1
-- Repeating it extends the protection.
local now = now_ms()
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 0, ARGV[i])
  redis.call('ZADD', KEYS[2], ms(now), ARGV[i])
end
redis.call('PEXPIRE', KEYS[2], 2 * tonumber(ARGV[1]))
return 1
