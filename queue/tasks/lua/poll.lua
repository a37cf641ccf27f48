-- poll ends tasks, sets tasks aside for another attempt, and takes tasks, as asynq does one by one (doneCmd,
-- retryCmd and dequeueCmd in its internal/rdb). It creates the tasks of the actions that it takes from the
-- fair queue.
-- KEYS: pending, paused, active, lease, processed today, processed, retry, due, flows of the fair
--       queue (see fair.lua), and optionally the number of tasks taken, for a reservation of send
--       times that follows in the same exchange
-- ARGV: task key prefix, lease in seconds, unix time at which today's count expires, most tasks to take,
--       channel, wakeup message for other workers or '', the number n of tasks that have ended, prefix of
--       the fair queue, 1 to take an owner's batches one after the other, else 0, three parts of a task's
--       message: up to the payload's length, from the payload to the id's length, and after the id; then n
--       ids of tasks that have ended; then the id of a task that runs again and the µs until then, 0 for
--       at once, for each such task
-- returns: {1 if more tasks or actions wait, else 0, id of a task taken, ...}
-- The wakeup message is published if the poll puts tasks back, or takes some and leaves others. The message
-- of a task is only for asynq's tools: batchd goes by the task's id.
-- A task set aside is in asynq's retry set by the second in which it is due, which is all that asynq's tools
-- can read, and in due by the millisecond; see forward.lua.
-- Repeating a poll ends no task twice. If its answer is lost, the tasks that it took stay active until the
-- sweeper finds them or their leases expire; see reap.lua.
local last = 12 + tonumber(ARGV[7])
if last > 12 then
  local ended, gone = {}, {}
  for i = 13, last do
    -- A task that is not active was put back by another process and runs again. The oldest are at the end.
    if redis.call('LREM', KEYS[3], -1, ARGV[i]) > 0 then
      ended[#ended + 1] = ARGV[i]
      gone[#gone + 1] = ARGV[1] .. ARGV[i]
    end
  end
  if #ended > 0 then
    redis.call('ZREM', KEYS[4], unpack(ended))
    redis.call('DEL', unpack(gone))
    if redis.call('INCRBY', KEYS[5], #ended) == #ended then
      redis.call('EXPIREAT', KEYS[5], ARGV[3])
    end
    redis.call('INCRBY', KEYS[6], #ended)
  end
end
local back, aside = false, false
local now = now_us()
for i = last + 1, #ARGV, 2 do
  if redis.call('LREM', KEYS[3], -1, ARGV[i]) > 0 then
    redis.call('ZREM', KEYS[4], ARGV[i])
    if ARGV[i + 1] == '0' then
      redis.call('RPUSH', KEYS[1], ARGV[i])
      redis.call('HSET', ARGV[1] .. ARGV[i], 'state', 'pending')
      back = true
    else
      local at = math.ceil((now + tonumber(ARGV[i + 1])) / 1000)
      redis.call('ZADD', KEYS[7], ms(math.floor(at / 1000)), ARGV[i])
      redis.call('ZADD', KEYS[8], ms(at), ARGV[i])
      redis.call('HSET', ARGV[1] .. ARGV[i], 'state', 'retry')
      aside = true
    end
  end
end
if aside then
  redis.call('PEXPIRE', KEYS[8], 3600000) -- without it tasks are due at the end of their second
end
if back and ARGV[6] ~= '' then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
local want, fair = tonumber(ARGV[4]), ARGV[8]
if want == 0 then
  return {0}
end
local paused = redis.call('EXISTS', KEYS[2]) == 1
local active, leases, answer, waiting = {}, {}, {0}, {}
local expiry = ms(math.floor(now / 1000000) + tonumber(ARGV[2]))
local function take(id)
  answer[#answer + 1] = id
  active[#active + 1] = id
  leases[#leases + 1] = expiry
  leases[#leases + 1] = id
end

-- Pending tasks run again or were put back. While actions wait in the fair queue, at most half of the tasks
-- taken are pending ones, so that an owner gets no larger share because all its actions run again.
local owners = redis.call('ZCARD', fair .. 'o')
local most = paused and 0 or owners == 0 and want or math.floor((want + now % 2) / 2)
local ids = most > 0 and redis.call('RPOP', KEYS[1], most) or {}
for _, id in ipairs(ids) do
  redis.call('HSET', ARGV[1] .. id, 'state', 'active')
  take(id)
end

-- create creates the tasks of actions of a flow and returns their number. It takes them unless the queue is
-- paused. An action that has a task gets no second one.
local function create(flow, round, indexes)
  local ids, keys, n = {}, {}, 0
  for i, index in ipairs(indexes) do
    ids[i] = flow .. ':' .. ms(index) .. (round ~= '' and ':' .. round or '')
    keys[i] = ARGV[1] .. ids[i]
  end
  local new = #keys > 0 and redis.call('EXISTS', unpack(keys)) == 0 -- almost always, none of them has a task
  for i, key in ipairs(keys) do
    if new or redis.call('EXISTS', key) == 0 then
      local payload = '1:' .. flow .. ':' .. ms(indexes[i])
      redis.call('HSET', key, 'state', paused and 'pending' or 'active', 'msg',
        ARGV[10] .. string.char(#payload) .. payload .. ARGV[11] .. string.char(#ids[i]) .. ids[i] .. ARGV[12])
      if paused then
        waiting[#waiting + 1] = ids[i]
      else
        take(ids[i])
      end
      n = n + 1
    end
  end
  return n
end

-- In a paused queue the next tasks are created as pending, so that asynq's tools show them.
local left = want - (paused and redis.call('LLEN', KEYS[1]) or #active)
local quantum = math.max(QUANTUM_LEAST, math.min(QUANTUM_MOST, math.ceil(left / math.max(owners, 1))))
local looks, fifo = LOOKS, ARGV[9] == '1'
local began = left > 0 and owners > 0 and clock(fair) or nil
local latest = began

-- next_flow returns the next flow of an owner, and whether it is next because it is small.
local function next_flow(owner)
  local first = redis.call('LINDEX', fair .. 'o:' .. owner, 0)
  local small = first and not fifo and redis.call('LINDEX', fair .. 's:' .. owner, 0)
  if small and tonumber(redis.call('HGET', fair .. 'g', owner) or '0') < SMALL_MOST then
    return small, true
  end
  return first, false
end

-- take_from takes actions of a range of a flow.
local function take_from(owner, flow, small, round, range)
  local flows = fair .. 'o:' .. owner
  local indexes, rest = cut(range, math.min(left, small and SMALL or quantum))
  if rest then
    redis.call('LPUSH', fair .. 'b:' .. flow, rest)
  end
  looks = looks - #indexes
  count(fair, -#indexes)
  local n = create(flow, round, indexes)
  left = left - n
  redis.call('ZINCRBY', fair .. 'o', n, owner)
  if small then
    redis.call('HINCRBY', fair .. 'g', owner, n)
  elseif not fifo then
    redis.call('HDEL', fair .. 'g', owner)
  end
  if not rest and redis.call('EXISTS', fair .. 'b:' .. flow) == 0 then
    if small then
      redis.call('LREM', flows, -1, flow) -- it was offered lately, so it is near the end
    else
      redis.call('LPOP', flows)
    end
    drop(fair, flow, owner)
  elseif small then
    if #indexes == SMALL then -- more of it was offered: it is not small any more
      redis.call('LPOP', fair .. 's:' .. owner)
    end
  elseif not fifo then
    redis.call('LMOVE', flows, flows, 'LEFT', 'RIGHT')
  end
end

while left > 0 and looks > 0 do
  local owner, time = least(fair)
  if not owner then
    break
  end
  latest = math.max(latest or time, time)
  local flow, small = next_flow(owner)
  local round = flow and read_flow(fair, flow)
  local range = round and redis.call('LPOP', fair .. 'b:' .. flow)
  if range then
    take_from(owner, flow, small, round, range)
  else
    remove_rest(fair, owner, flow)
  end
end

if #waiting > 0 then
  redis.call('LPUSH', KEYS[1], unpack(waiting))
end
local more = redis.call('EXISTS', fair .. 'o') == 1
if more and latest and latest > began then
  redis.call('SET', fair .. 'v', ms(latest))
end
if paused then
  return {0}
end
if #active > 0 then
  redis.call('LPUSH', KEYS[3], unpack(active))
  redis.call('ZADD', KEYS[4], unpack(leases))
  if KEYS[10] then
    redis.call('INCRBY', KEYS[10], #active)
    redis.call('PEXPIRE', KEYS[10], 60000)
  end
end
if more or redis.call('EXISTS', KEYS[1]) == 1 then
  answer[1] = 1
  if #active > 0 and ARGV[6] ~= '' then
    redis.call('PUBLISH', ARGV[5], ARGV[6])
  end
end
return answer
