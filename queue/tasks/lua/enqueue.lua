-- enqueue adds tasks to a queue, as asynq's client does one by one (enqueueCmd in its internal/rdb),
-- and wakes the workers. A task whose id is taken is left out.
-- KEYS: pending
-- ARGV: task key prefix, time in ns, channel, wakeup message for workers or '', then the id and the message of
--       each task
-- returns: the number of tasks added. Repeating it adds nothing.
local added, keys = {}, {}
for i = 5, #ARGV, 2 do
  keys[#keys + 1] = ARGV[1] .. ARGV[i]
end
local new = redis.call('EXISTS', unpack(keys)) == 0 -- almost always, none of the ids is taken
for n, key in ipairs(keys) do
  if new or redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key, 'msg', ARGV[2 * n + 4], 'state', 'pending', 'pending_since', ARGV[2])
    added[#added + 1] = ARGV[2 * n + 3]
  end
end
if #added == 0 then
  return 0
end
redis.call('LPUSH', KEYS[1], unpack(added))
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return #added
