-- renew extends the leases of tasks that still run, by this server's clock. A lease that is gone,
-- because another process has put the task back, stays gone.
-- KEYS: lease
-- ARGV: lease in seconds, then the ids of the tasks
-- returns: nothing. It may be repeated.
local expiry = ms(math.floor(now_us() / 1000000) + tonumber(ARGV[1]))
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', expiry, ARGV[i])
end
return {}
