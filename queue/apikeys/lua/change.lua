-- change stores a key, unless it has changed since the caller read it.
-- KEYS: the keys (hash: 'version', and 'k:' .. name → sealed record)
-- ARGV: field, record that the caller read or '', new record, new version, which is random: after a failover
--       that lost a change, no version may come again
-- returns: 1 | 0 if the record is another one than the caller read
-- If the step is repeated after it succeeded, it returns 1 and changes nothing but the version.
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] and now ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3], 'version', ARGV[4])
return 1
