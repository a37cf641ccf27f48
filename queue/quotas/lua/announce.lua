-- announce writes the configured quotas of stored bytes.
-- KEYS: configured quotas (hash, by kind of account)
-- ARGV: ms until they expire, then kinds and quotas in turn
-- returns: 1
-- Repeating the step changes nothing but their end.
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
