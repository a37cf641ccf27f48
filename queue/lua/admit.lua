-- admit asks an owner's limit for actions, and takes what it gives.
--
-- The rate is a sliding window: actions are counted in slices of it, and a
-- slice counts until all of it has left the window, so that no window of that
-- length ever holds more. What is in flight is counted by batch.
-- KEYS: counts by slice (hash), in flight by batch (hash)
-- ARGV: batch id, actions, '1' to admit a part, rate (0: none), window ms, slice ms,
--       most in flight (0: none), then batch id and actions in flight of batches that
--       were looked at
-- returns: {admitted, remaining, reset ms, wait ms, in flight, slice}
--          wait is when all of them would be admitted: 0 never, -1 unknown
local id, n, partial = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local rate, window, slice, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = now_ms()

local flying = 0
if most > 0 then
  for i = 8, #ARGV, 2 do
    local held = tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0')
    if tonumber(ARGV[i + 1]) == 0 then
      redis.call('HDEL', KEYS[2], ARGV[i])
    elseif tonumber(ARGV[i + 1]) < held then
      redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    end
  end
  for _, held in ipairs(redis.call('HVALS', KEYS[2])) do
    flying = flying + tonumber(held)
  end
end

local used, slices = 0, {}
if rate > 0 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local leaves = (tonumber(all[i]) + 1) * slice + window
    if leaves <= now then
      redis.call('HDEL', KEYS[1], all[i])
    else
      used = used + tonumber(all[i + 1])
      slices[#slices + 1] = {leaves, tonumber(all[i + 1])}
    end
  end
  table.sort(slices, function(a, b) return a[1] < b[1] end)
end

local room = n
if rate > 0 then
  room = math.min(room, math.max(rate - used, 0))
end
if most > 0 then
  room = math.min(room, math.max(most - flying, 0))
end
local admitted, wait = room, 0
if room < n then
  if (rate > 0 and n > rate) or (most > 0 and n > most) then
    wait = 0
  elseif most > 0 and flying + n > most then
    wait = -1
  else
    local over = used + n - rate
    for _, s in ipairs(slices) do
      over = over - s[2]
      if over <= 0 then
        wait = s[1] - now
        break
      end
    end
  end
  if not partial then
    admitted = 0
  end
end

local current = math.floor(now / slice)
if admitted > 0 then
  if rate > 0 then
    redis.call('HINCRBY', KEYS[1], ms(current), admitted)
    redis.call('PEXPIRE', KEYS[1], window + 2 * slice)
    used = used + admitted
    slices[#slices + 1] = {(current + 1) * slice + window, admitted}
  end
  if most > 0 then
    redis.call('HINCRBY', KEYS[2], id, admitted)
    redis.call('PEXPIRE', KEYS[2], 86400000 * 90)
    flying = flying + admitted
  end
end
local reset = 0
if #slices > 0 then
  reset = slices[#slices][1] - now
end
return {admitted, math.max(rate - used, 0), reset, wait, flying, ms(current)}
