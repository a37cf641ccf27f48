-- requeue puts tasks back that were taken, at the head of their queue, as asynq
-- does at a shutdown (requeueCmd in its internal/rdb), and wakes the workers.
-- KEYS: active, lease, pending
-- ARGV: task key prefix, channel, word for the workers, then the ids of the tasks,
--       of which the last will be taken first
-- returns: the number of those that somebody held
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
