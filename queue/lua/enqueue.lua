-- enqueue adds tasks to a queue, as asynq's client does one by one (enqueueCmd
-- in its internal/rdb), and wakes the workers. A task whose id is taken is left out.
-- KEYS: pending
-- ARGV: task key prefix, time in ns, channel, word for the workers, then id and message in turn
-- returns: the number of tasks added
local added = {}
for i = 5, #ARGV, 2 do
  local key = ARGV[1] .. ARGV[i]
  if redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key, 'msg', ARGV[i + 1], 'state', 'pending', 'pending_since', ARGV[2])
    added[#added + 1] = ARGV[i]
  end
end
if #added > 0 then
  redis.call('LPUSH', KEYS[1], unpack(added))
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return #added
