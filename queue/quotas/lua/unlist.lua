-- unlist removes an account without entries from the list, unless it was entered again since it was claimed.
-- KEYS: list of accounts
-- ARGV: account, time that claim returned
-- returns: 1 if it was removed, or 0
local look = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not look or tonumber(look) ~= tonumber(ARGV[2]) then
  return 0
end
return redis.call('ZREM', KEYS[1], ARGV[1])
