-- reserve takes the next place at a target's rate: places are an interval apart,
-- and a burst of them may be used at once after a pause.
-- KEYS: gate (hash: next, held)
-- ARGV: interval in microseconds, burst
-- returns: microseconds until the place
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local g = redis.call('HMGET', KEYS[1], 'next', 'held')
local place = math.max(tonumber(g[1] or '0'), now - (burst - 1) * interval, tonumber(g[2] or '0'))
redis.call('HSET', KEYS[1], 'next', string.format('%.0f', place + interval))
redis.call('EXPIRE', KEYS[1], 86400)
return string.format('%.0f', math.max(place - now, 0))
