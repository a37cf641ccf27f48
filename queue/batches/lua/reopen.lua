-- reopen enters a batch into a list of batches, and protects the entry against removal after an earlier
-- look at the batch.
-- KEYS: list, entries that were entered again (zset by time)
-- ARGV: batch id, hold ms
-- returns: 1
-- Repeating it extends the protection.
local now = now_ms()
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('ZADD', KEYS[2], ms(now), ARGV[1])
redis.call('PEXPIRE', KEYS[2], 2 * tonumber(ARGV[2]))
return 1
