-- spare returns batches of an account that may have bytes to spare, those with the most first.
-- KEYS: entries, looks, sums, spare bytes (account.lua)
-- ARGV: batch that asks, bytes that are missing, number of batches to leave out, least and most batches,
--       ms before its look from which on a reservation is old
-- returns: {batch id, time of its look, bytes that a worker may be about to
--          give to the batch, or 0, ...}
local missing = tonumber(ARGV[2])
local answer, now = {}, now_ms()
local found = redis.call('ZREVRANGE', KEYS[4], ARGV[3], ARGV[3] + ARGV[5] - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local id = found[i]
  local look = redis.call('ZSCORE', KEYS[2], id)
  if look and id ~= ARGV[1] then
    local _, bytes, _ = read_held(redis.call('HGET', KEYS[1], id))
    local young = tonumber(look) - now > tonumber(ARGV[6])
    answer[#answer + 1] = id
    answer[#answer + 1] = look
    answer[#answer + 1] = young and ms(bytes) or '0'
    missing = missing - tonumber(found[i + 1])
    if missing <= 0 and #answer >= 3 * ARGV[4] then
      break
    end
  end
end
return answer
