-- charge counts a batch for an account, or changes what the batch counts for, unless a quota refuses that.
-- KEYS: entries, looks, sums, spare bytes (account.lua), upload rate (string "bytes|ms": what the bucket holds, and when)
-- ARGV: batch id, stored bytes, bytes to reserve if there is room for them, bytes uploaded in all,
--       most open batches, most stored bytes, uploaded bytes a second, most at once (for each 0: no quota),
--       ms for which the reservation is valid, ms after which the batch is looked at, 'r' for an upload, 't' for
--       the retry of an ended batch or 'g' for room for results of a batch, most of the quota that may be
--       reserved: 'all', 'half' of the quota, or a 'quarter' of what is free beside the stored bytes,
--       '1' to change nothing
-- returns: {'ok', reserved bytes, ms at which the reservation ends} |
--          {quota, present use, ms until there is room: 0 for never, -1 for not known, then for stored bytes
--          those that other batches may spare}
-- A batch that counts for the account as open never exceeds the quota of open batches, nor does one with no more
-- bytes than it has reserved exceed that of stored bytes. Repeating the step counts nothing twice. Room for results
-- never lowers what is reserved: another worker may be about to use it.
local id, need, want, uploaded = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most_open, most_bytes, rate, burst = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local now = now_ms()
local account = {KEYS[1], KEYS[2], KEYS[3], KEYS[4]}
local state, had, before = read_held(redis.call('HGET', KEYS[1], id))
local sums = redis.call('HMGET', KEYS[3], 'open', 'bytes', 'spare')
local open, others = tonumber(sums[1] or '0'), tonumber(sums[2] or '0') - had

if most_open > 0 and counts_open(state) == 0 and open >= most_open then
  return {'open_batches', ms(open), -1}
end
if most_bytes > 0 and need > had and others + need > most_bytes then
  local spare = tonumber(sums[3] or '0') - tonumber(redis.call('ZSCORE', KEYS[4], id) or '0')
  return {'stored_bytes', ms(others), need > most_bytes and 0 or -1, ms(spare)}
end
if ARGV[13] == '1' then
  return {'ok', '0', '0'}
end
local more = math.max(uploaded - before, 0)
if rate > 0 and more > 0 then
  local held, at = string.match(redis.call('GET', KEYS[5]) or '', '^(%d+)|(%d+)$')
  local level = math.max(tonumber(held or '0') - math.floor((now - tonumber(at or now)) * rate / 1000), 0)
  if level + more > burst then
    return {'upload_rate', ms(level), uploaded > burst and 0 or math.ceil((level + more - burst) * 1000 / rate)}
  end
  redis.call('SET', KEYS[5], ms(level + more) .. '|' .. ms(now), 'PX', ms(math.ceil((level + more) * 1000 / rate) + 1))
end

local reserved = math.max(need, want)
if most_bytes > 0 then
  local most = most_bytes - others
  if ARGV[12] == 'half' then
    most = math.floor(most_bytes / 2) - others
  elseif ARGV[12] == 'quarter' then
    most = need + math.floor(math.max(most - need, 0) / 4)
  end
  reserved = math.max(need, math.min(reserved, most))
end
local becomes = ARGV[11]
if becomes == 'g' then
  becomes, reserved = state or 'o', math.max(reserved, had)
end
-- A look that began before this step must not decide about it, so the time of the next look is a new one.
local look = math.max(now + tonumber(ARGV[10]), tonumber(redis.call('ZSCORE', KEYS[2], id) or '0') + 1)
put(account, id, becomes, reserved, math.max(uploaded, before), look, reserved - need)
return {'ok', ms(reserved), ms(now + tonumber(ARGV[9]))}
