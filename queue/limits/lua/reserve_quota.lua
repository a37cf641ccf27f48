-- reserve_quota asks an owner's limit for actions, and takes those that it admits.
--
-- The rate is a sliding window. Actions are counted in slices of the window, and a slice counts until all of it
-- has left the window, so that no window of that length ever has more actions. Actions in flight are counted by
-- grant: a grant has all actions that one round of a batch was admitted, as "given|ended". The given ones are
-- written here before anywhere else, and the ended ones only grow, so an outdated number frees too little room,
-- never too much.
-- KEYS: counts by slice (hash), grants (hash)
-- ARGV: grant, actions that it shall hold in all, '1' to admit a part, rate (0: none), window ms, slice ms,
--       most in flight (0: no limit), '1' to keep the grant even if the number in flight is not limited, then
--       the grant and the two answers of in_flight.lua, for each of several grants
-- returns: {actions that the grant holds, remaining, reset ms, wait ms, in flight, slice, next ms}
--          wait is the time until all of them are admitted: 0 for never, -1 for not known; next is the time until
--          the rate admits another action: 0 for now
-- Repeating it takes nothing more if the grant is kept.
local id, upto, partial = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local rate, window, slice, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local keep = most > 0 or ARGV[8] == '1'
local now = now_ms()

local function read_grant(packed)
  local given, ended = string.match(packed or '', '^(%d+)|(%d+)$')
  return tonumber(given or '0'), tonumber(ended or '0')
end

for i = 9, #ARGV, 3 do
  local grant, found, n = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local packed = redis.call('HGET', KEYS[2], grant)
  if packed and found == 'gone' then
    redis.call('HDEL', KEYS[2], grant)
  elseif packed then
    local given, ended = read_grant(packed)
    if found == 'pending' then
      n = given - n
    end
    n = math.min(n, given)
    if n > ended then
      redis.call('HSET', KEYS[2], grant, given .. '|' .. n)
    end
  end
end

local flying = 0
if most > 0 then
  for _, packed in ipairs(redis.call('HVALS', KEYS[2])) do
    local given, ended = read_grant(packed)
    flying = flying + given - ended
  end
end

local used, slices = 0, {}
if rate > 0 then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local leaves = tonumber(all[i]) + window
    if leaves <= now then
      redis.call('HDEL', KEYS[1], all[i])
    else
      used = used + tonumber(all[i + 1])
      slices[#slices + 1] = {leaves, tonumber(all[i + 1])}
    end
  end
  table.sort(slices, function(a, b) return a[1] < b[1] end)
end

local given, ended = 0, 0
if keep then
  given, ended = read_grant(redis.call('HGET', KEYS[2], id))
end
local n = math.max(upto - given, 0)
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

local current = (math.floor(now / slice) + 1) * slice -- named by its end, which stays right if the rate changes
if admitted > 0 then
  if rate > 0 then
    redis.call('HINCRBY', KEYS[1], ms(current), admitted)
    redis.call('PEXPIRE', KEYS[1], window + 2 * slice)
    used = used + admitted
    slices[#slices + 1] = {current + window, admitted}
  end
  if keep then
    redis.call('HSET', KEYS[2], id, (given + admitted) .. '|' .. ended)
    redis.call('PEXPIRE', KEYS[2], ms(86400000 * 800)) -- longer than a batch runs and is kept
    flying = flying + admitted
  end
end
local reset = 0
if #slices > 0 then
  reset = slices[#slices][1] - now
end
local following = 0
if rate > 0 and used >= rate and #slices > 0 then
  following = math.max(slices[1][1] - now, 1)
end
return {given + admitted, math.max(rate - used, 0), reset, wait, flying, ms(current), following}
