-- reopen enters a batch into a list of batches, and keeps it there for a while whatever
-- an earlier look at the batch has found.
-- KEYS: list, entries that were made again (zset by time)
-- ARGV: batch id, hold ms
-- returns: 1
local now = now_ms()
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('ZADD', KEYS[2], ms(now), ARGV[1])
redis.call('PEXPIRE', KEYS[2], 2 * tonumber(ARGV[2]))
return 1
