-- enqueue adds tasks to a queue, as asynq's client does one by one (enqueueCmd
-- in its internal/rdb), and wakes the workers, unless it has no word for them: then a
-- turn follows, which has. A task whose id is taken is left out.
-- KEYS: pending, then the meta key of the batch if it must exist; a cluster has it elsewhere
-- ARGV: task key prefix, time in ns, channel, word for the workers or '', then id and message in turn
-- returns: {the number of tasks added, the number that wait in the queue}
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then
  return {0, 0}
end
local added, keys = {}, {}
for i = 5, #ARGV, 2 do
  keys[#keys + 1] = ARGV[1] .. ARGV[i]
end
local new = redis.call('EXISTS', unpack(keys)) == 0 -- as almost always, all of them
for n, key in ipairs(keys) do
  if new or redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key, 'msg', ARGV[2 * n + 4], 'state', 'pending', 'pending_since', ARGV[2])
    added[#added + 1] = ARGV[2 * n + 3]
  end
end
if #added == 0 then
  return {0, redis.call('LLEN', KEYS[1])}
end
local waiting = redis.call('LPUSH', KEYS[1], unpack(added))
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return {#added, waiting}
