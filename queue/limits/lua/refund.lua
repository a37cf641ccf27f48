-- refund returns the admission of an upload or a retry that was dropped.
-- KEYS: counts by slice (hash), grants (hash)
-- ARGV: grant, then the number of actions and the slice that counts them, for each slice
-- returns: 1
redis.call('HDEL', KEYS[2], ARGV[1])
for i = 2, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i + 1]) == 1 and redis.call('HINCRBY', KEYS[1], ARGV[i + 1], -tonumber(ARGV[i])) <= 0 then
    redis.call('HDEL', KEYS[1], ARGV[i + 1])
  end
end
return 1
