-- due returns the batches of an account that are looked at next.
-- KEYS: entries, looks, sums, spare bytes (account.lua)
-- ARGV: most batches, ms from now up to which a batch is due, '1' to return none if the account was asked for them
--       just now: the more batches it has, the longer that counts
-- returns: {number of batches in the account, batch id, time of its look, ...}
local held = redis.call('HLEN', KEYS[1])
local answer = {held}
if held == 0 then
  return answer
end
local now = now_ms()
if ARGV[3] == '1' then
  if now < tonumber(redis.call('HGET', KEYS[3], 'asked') or '0') then
    return answer
  end
  redis.call('HSET', KEYS[3], 'asked', ms(now + math.max(10, math.ceil(math.min(held, tonumber(ARGV[1])) / 5))))
end
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ms(now + tonumber(ARGV[2])), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for _, one in ipairs(found) do
  answer[#answer + 1] = one
end
return answer
