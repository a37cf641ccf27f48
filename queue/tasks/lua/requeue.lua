-- requeue puts running tasks back to the head of their queue, as asynq does at a shutdown (requeueCmd in its
-- internal/rdb), and wakes the workers.
-- KEYS: active, lease, pending
-- ARGV: task key prefix, channel, wakeup message for workers, then the ids of the tasks, of which a poll takes
--       the last one first
-- returns: the number of those that were running. Repeating it puts no task back twice.
local n = 0
for i = 4, #ARGV do
  if redis.call('LREM', KEYS[1], -1, ARGV[i]) > 0 then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('RPUSH', KEYS[3], ARGV[i])
    redis.call('HSET', ARGV[1] .. ARGV[i], 'state', 'pending')
    n = n + 1
  end
end
if n > 0 then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return n
