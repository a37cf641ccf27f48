-- readmit gives back what a submission was admitted that was not made.
-- KEYS: counts by slice (hash), in flight by batch (hash)
-- ARGV: batch id, actions, slice
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 and redis.call('HINCRBY', KEYS[1], ARGV[3], -tonumber(ARGV[2])) <= 0 then
  redis.call('HDEL', KEYS[1], ARGV[3])
end
return 1
