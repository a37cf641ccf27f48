-- turn ends tasks that are done, puts those aside that run once more, and takes waiting
-- ones, as asynq does one by one (doneCmd, retryCmd and dequeueCmd in its internal/rdb).
-- KEYS: pending, paused, active, lease, processed today, processed, retry, due, and optionally the
--       number of tasks taken, for a reservation of send times that follows in the same exchange
-- ARGV: task key prefix, lease in seconds, unix time at which today's count goes,
--       most tasks to take, channel, word for other workers if it leaves or puts back some, or '',
--       the number of those that are done, their ids, then in turn the id of one that runs once more
--       and the µs until then, 0 for at once
-- returns: {id, ...}
-- A task needs no message: its id says all, and the ledger decides about it.
-- A task that waits stands in asynq's retry set by the second that it is due in, which is all that
-- asynq's tools can read, and in due by the millisecond; see forward.lua.
-- Repeating a turn ends nothing twice. If its answer is lost, the tasks that it took stay
-- active until the sweeper finds them or their leases expire; see reap.lua.
local last = 7 + tonumber(ARGV[7])
if last > 7 then
  local ended, gone = {}, {}
  for i = 8, last do
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
local want = tonumber(ARGV[4])
if want == 0 or redis.call('EXISTS', KEYS[2]) == 1 then
  return {}
end
local ids = redis.call('RPOP', KEYS[1], want)
if not ids or #ids == 0 then
  return {}
end
if #ids == want and ARGV[6] ~= '' and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
local leases = {}
local expiry = ms(math.floor(now / 1000000) + tonumber(ARGV[2]))
for _, id in ipairs(ids) do
  redis.call('HSET', ARGV[1] .. id, 'state', 'active')
  leases[#leases + 1] = expiry
  leases[#leases + 1] = id
end
redis.call('LPUSH', KEYS[3], unpack(ids))
redis.call('ZADD', KEYS[4], unpack(leases))
if KEYS[9] then
  redis.call('INCRBY', KEYS[9], #ids)
  redis.call('PEXPIRE', KEYS[9], 60000)
end
return ids
