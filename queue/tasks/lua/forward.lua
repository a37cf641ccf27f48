-- forward moves the tasks of a queue whose retry time has come, by this server's clock, to the end of the
-- queue, as asynq's forwarder does (forwardCmd in its internal/rdb), but to the millisecond.
-- KEYS: due, retry, pending
-- ARGV: task key prefix, the most tasks to move
-- returns: {the number of tasks moved, the µs until the next task is due, or -1 if none waits}
-- It drops an entry of due whose task does not wait any more, because an operator ran or deleted the task. It
-- moves a task without an entry in due when the task's second in asynq's retry set is over. Repeating it moves
-- no task twice.
local now = now_us()
local most = tonumber(ARGV[2])
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms(math.floor(now / 1000)), 'LIMIT', 0, most)
if #ids > 0 then
  redis.call('ZREM', KEYS[1], unpack(ids))
end
if #ids < most then
  local over = ms(math.floor(now / 1000000) - 1)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', over, 'LIMIT', 0, most - #ids)) do
    ids[#ids + 1] = id
  end
end
local moved = 0
for _, id in ipairs(ids) do
  if redis.call('ZREM', KEYS[2], id) == 1 then
    redis.call('LPUSH', KEYS[3], id)
    redis.call('HSET', ARGV[1] .. id, 'state', 'pending', 'pending_since', ms(now) .. '000')
    moved = moved + 1
  end
end
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local at = next and tonumber(next) * 1000
local second = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local over = second and (tonumber(second) + 1) * 1000000
if over and (not at or over < at) then
  at = over
end
if not at then
  return {moved, -1}
end
return {moved, math.max(at - now, 0)}
