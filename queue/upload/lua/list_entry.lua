-- list puts a batch into its owner's list, by the time at which it was created, in
-- microseconds, and drops what is older than any batch lives. An entry that is there may
-- be kept as it is.
local function list(key, id, created, life, keep)
  if not keep or not redis.call('ZSCORE', key, id) then
    redis.call('ZADD', key, ms(created), id)
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', ms(now_us() - life * 1000))
  redis.call('PEXPIRE', key, ms(life))
end
