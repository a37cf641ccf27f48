-- list adds a batch to a list with the time at which it was created, in
-- microseconds, and removes entries that are older than any batch lives. If keep is set, an
-- existing entry stays as it is.
local function list(key, member, created, life, keep)
  if not keep or not redis.call('ZSCORE', key, member) then
    redis.call('ZADD', key, ms(created), member)
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', ms(now_us() - life * 1000))
  redis.call('PEXPIRE', key, ms(life))
end
