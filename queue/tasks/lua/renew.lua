-- renew extends the leases of running tasks, by this server's clock. It creates no lease: if another process
-- has put a task back, the task has none.
-- KEYS: lease
-- ARGV: lease in seconds, then the ids of the tasks
-- returns: nothing. It may be repeated.
local expiry = ms(math.floor(now_us() / 1000000) + tonumber(ARGV[1]))
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', expiry, ARGV[i])
end
return {}
