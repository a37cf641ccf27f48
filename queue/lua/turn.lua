-- turn ends tasks that are done, puts those aside that are to come again, and takes
-- waiting ones, as asynq does one by one (doneCmd, retryCmd and dequeueCmd in its
-- internal/rdb).
-- KEYS: pending, paused, active, lease, processed today, processed, retry
-- ARGV: task key prefix, lease in seconds, unix time at which today's count goes,
--       most tasks to take, 1 if their messages are wanted, too, channel, word for other workers if
--       it leaves or puts back some, or '', the number of those that are done, their ids, then id and
--       unix time in turn of those that are to come again, or 0 instead of the time if at once
-- returns: {id, ...}, or {id, message, ...}
-- Without a message nobody could run a task, and it is dropped. Where messages are not
-- wanted, the ledger decides about tasks that have lost them, too.
-- Repeating a turn ends nothing twice. What it takes is lost if its answer is,
-- until the lease runs out or the sweeper finds it.
local last = 8 + tonumber(ARGV[8])
if last > 8 then
  local ended, gone = {}, {}
  for i = 9, last do
    -- One that is not active any more somebody has put back: it comes again. The oldest stand at the end.
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
local back = false
for i = last + 1, #ARGV, 2 do
  if redis.call('LREM', KEYS[3], -1, ARGV[i]) > 0 then
    redis.call('ZREM', KEYS[4], ARGV[i])
    if ARGV[i + 1] == '0' then
      redis.call('RPUSH', KEYS[1], ARGV[i])
      redis.call('HSET', ARGV[1] .. ARGV[i], 'state', 'pending')
      back = true
    else
      redis.call('ZADD', KEYS[7], ARGV[i + 1], ARGV[i])
      redis.call('HSET', ARGV[1] .. ARGV[i], 'state', 'retry')
    end
  end
end
if back and ARGV[7] ~= '' then
  redis.call('PUBLISH', ARGV[6], ARGV[7])
end
local want = tonumber(ARGV[4])
if want == 0 or redis.call('EXISTS', KEYS[2]) == 1 then
  return {}
end
local ids = redis.call('RPOP', KEYS[1], want)
if not ids or #ids == 0 then
  return {}
end
if #ids == want and ARGV[7] ~= '' and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('PUBLISH', ARGV[6], ARGV[7])
end
local taken, active, leases = {}, {}, {}
local expiry = ms(math.floor(now_ms() / 1000) + tonumber(ARGV[2]))
local messages = ARGV[5] == '1'
for _, id in ipairs(ids) do
  local key = ARGV[1] .. id
  local message = messages and redis.call('HGET', key, 'msg')
  if messages and not message then
    redis.call('DEL', key)
  else
    redis.call('HSET', key, 'state', 'active')
    taken[#taken + 1] = id
    if message then
      taken[#taken + 1] = message
    end
    active[#active + 1] = id
    leases[#leases + 1] = expiry
    leases[#leases + 1] = id
  end
end
if #active > 0 then
  redis.call('LPUSH', KEYS[3], unpack(active))
  redis.call('ZADD', KEYS[4], unpack(leases))
end
return taken
