-- enlist enters an account into the list of accounts that the sweeper looks at.
-- KEYS: list of accounts (zset: account, ms of the next look)
-- ARGV: account, ms until the sweeper looks at it
-- returns: 1
-- An entry that exists changes a little, so that a sweeper that looked at the account before does not remove it.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.call('ZINCRBY', KEYS[1], 1, ARGV[1])
else
  redis.call('ZADD', KEYS[1], ms(now_ms() + tonumber(ARGV[2])), ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], ms(86400000 * 800))
return 1
