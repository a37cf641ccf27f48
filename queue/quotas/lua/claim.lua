-- claim returns accounts that the sweeper looks at now, and delays their next look.
-- KEYS: list of accounts
-- ARGV: most accounts, ms until the next look at them
-- returns: {time of their next look, account, ...}
local now = now_ms()
local next = ms(now + tonumber(ARGV[2]))
local answer = {next}
for _, account in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms(now), 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', KEYS[1], next, account)
  answer[#answer + 1] = account
end
return answer
