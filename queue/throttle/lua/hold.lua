-- hold puts a target on hold, and tells all workers.
-- KEYS: gate (hash: held, and the fields of reserve.lua)
-- ARGV: target, microseconds, channel
-- returns: 1 if the hold ends later than before, otherwise 0
local now = now_us()
local held = tonumber(redis.call('HGET', KEYS[1], 'held') or '0')
if now + tonumber(ARGV[2]) <= held then
  return 0
end
redis.call('HSET', KEYS[1], 'held', ms(now + tonumber(ARGV[2])))
-- The fields of reserve.lua may have to last for longer.
redis.call('PEXPIRE', KEYS[1], ms(math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]) / 1000 + 60000)))
redis.call('PUBLISH', ARGV[3], ARGV[2] .. ' ' .. ARGV[1])
return 1
