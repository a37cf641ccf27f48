-- reserve reserves the next send times at a target's rate, and takes back send times that were
-- not used. Two send times are one step apart, which is (period + late) / N: a request may
-- be written up to `late` after its send time, so any N + 1 requests still span a period.
-- With a burst b a request may be written (b - 1) steps later than that.
-- The step follows the largest tolerance of the last period, because each send time
-- needs N steps behind it that are as wide as its own tolerance requires.
-- KEYS: gate (hash: next, held, late, before, turn), returned (sorted set of send times),
--       reply to this call, and optionally the number of tasks that the poll before this step
--       took in the same exchange: the step reserves send times for these, too
-- ARGV: period, N, burst, the most send times to reserve, how far from now the first one that can be
--       used is, how far from now the last one may be, late, then time, step and late of each
--       send time that is returned, latest first; all in microseconds
-- returns: {now, "next time step late n ..."}, where next is the earliest time of a further send time,
--          and each time is followed by its step, its tolerance, and the number n of send times from
--          it on, a step apart
-- Repeating a call with the same key for its reply changes nothing and returns the same,
-- except for now. A call that reserves and returns nothing writes nothing.
-- Fields of the gate: next is the time of the next send time, and the target is on hold until held. late is
-- the largest tolerance of the send times before turn, in a span of about a period, and the field before
-- has that of the span before it.
local now = now_us()
local period, number, burst, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local earliest, horizon, late = now + tonumber(ARGV[5]), now + tonumber(ARGV[6]), tonumber(ARGV[7])
if KEYS[4] then
  local polled = redis.call('GET', KEYS[4])
  if polled then
    most = most + tonumber(polled)
    redis.call('DEL', KEYS[4])
  end
end
local writes = most > 0 or #ARGV > 7
if writes then
  local reply = redis.call('GET', KEYS[3])
  if reply then
    return {ms(now), reply}
  end
end
local g = redis.call('HMGET', KEYS[1], 'next', 'held', 'late', 'before', 'turn')
for i = 1, 5 do
  g[i] = tonumber(g[i] or '0')
end
local next, held, current, before, turn = unpack(g)

-- A returned send time ends the sequence, or leaves a gap in it that the next caller gets.
local function parse(member)
  local at, step, tolerance = string.match(member, '^(%d+) (%d+) (%d+)$')
  return tonumber(at), tonumber(step), tonumber(tolerance)
end
for i = 8, #ARGV, 3 do
  redis.call('ZADD', KEYS[2], ARGV[i], ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
end
local gaps = redis.call('ZRANGE', KEYS[2], 0, -1)
while #gaps > 0 do
  local at, step = parse(gaps[#gaps])
  if at + step ~= next then
    break
  end
  next = at
  if writes then
    redis.call('ZREM', KEYS[2], gaps[#gaps])
  end
  gaps[#gaps] = nil
end

local taken, left = {}, nil
for _, gap in ipairs(gaps) do
  local at, step, tolerance = parse(gap)
  local last = at + (burst - 1) * step
  if at < held or last + tolerance < now then
    if writes then
      redis.call('ZREM', KEYS[2], gap)
    end
  elseif #taken < most and last >= earliest and at <= horizon then
    taken[#taken + 1] = gap .. ' 1'
    redis.call('ZREM', KEYS[2], gap)
  elseif last >= earliest and not left then
    left = at
  end
end

local widest = math.max(late, current, before)
local step = math.ceil((period + widest) / number)
local at = math.max(next, earliest - (burst - 1) * step, held)
local n = math.max(math.min(most - #taken, math.floor((horizon - at) / step) + 1), 0)
if n > 0 then
  taken[#taken + 1] = ms(at) .. ' ' .. ms(step) .. ' ' .. ms(late) .. ' ' .. n
  if at >= turn then
    before, current = current, late
    turn = at + period + widest + 2000000 -- beyond what can still be returned
  else
    current = math.max(current, late)
  end
  next = at + n * step
end
local reply = ms(math.min(math.max(next, held), left or math.huge))
if #taken > 0 then
  reply = reply .. ' ' .. table.concat(taken, ' ')
end
if writes then
  redis.call('HSET', KEYS[1], 'next', ms(next), 'late', ms(current), 'before', ms(before), 'turn', ms(turn))
  local ttl = ms((math.max(next, held) - now + burst * step + 3 * period) / 1000 + 60000)
  redis.call('PEXPIRE', KEYS[1], ttl)
  redis.call('PEXPIRE', KEYS[2], ttl)
  redis.call('SET', KEYS[3], reply, 'PX', 600000)
end
return {ms(now), reply}
