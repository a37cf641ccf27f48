-- alert makes all open batches due at once, and has the sweeper, in whichever process, look at them in
-- every round while the alert lasts.
-- KEYS: open (zset: batch id, ms from which a round looks at it), alert
-- ARGV: ms for which the alert lasts
-- returns: the number of open batches
-- Repeating it extends the alert.
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', 0)
