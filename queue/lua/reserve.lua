-- reserve takes the next places at a target's rate: they are an interval apart,
-- and a burst of them may be used at once after a pause.
-- KEYS: gate (hash: next, held)
-- ARGV: interval in microseconds, burst, most places, microseconds that they may be ahead
-- returns: {places taken, microseconds from now until the next place, which may be in the past}
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local interval, burst, most, horizon = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local g = redis.call('HMGET', KEYS[1], 'next', 'held')
local place = math.max(tonumber(g[1] or '0'), now - (burst - 1) * interval, tonumber(g[2] or '0'))
local n = math.min(most, math.floor((now + horizon - place) / interval) + 1)
if n <= 0 then
  return {0, ms(place - now)}
end
redis.call('HSET', KEYS[1], 'next', ms(place + n * interval))
redis.call('EXPIRE', KEYS[1], 86400)
return {n, ms(place - now)}
