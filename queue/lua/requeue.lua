-- requeue puts a task back that was taken, at the head of its queue, as asynq
-- does at a shutdown (requeueCmd in its internal/rdb).
-- KEYS: active, lease, pending, task
-- ARGV: task id
-- returns: 1 | 0 if nobody holds it any more
if redis.call('LREM', KEYS[1], 0, ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[4], 'state', 'pending')
return 1
