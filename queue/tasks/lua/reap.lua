-- reap puts tasks whose leases have expired by this server's clock back to the head of their queue,
-- as asynq's recoverer does, and wakes the workers. It counts no failed attempt: the ledger decides
-- about attempts.
-- KEYS: active, lease, pending
-- ARGV: task key prefix, for how many seconds a lease must have been over, the most tasks to put
--       back, channel, wakeup message for workers
-- returns: the number of tasks put back
-- Repeating it puts no task back twice.
local over = ms(math.floor(now_us() / 1000000) - tonumber(ARGV[2]))
local n = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. over, 'LIMIT', 0, tonumber(ARGV[3]))) do
  redis.call('ZREM', KEYS[2], id)
  if redis.call('LREM', KEYS[1], -1, id) > 0 then
    redis.call('RPUSH', KEYS[3], id)
    redis.call('HSET', ARGV[1] .. id, 'state', 'pending')
    n = n + 1
  end
end
if n > 0 then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
return n
