-- read returns all keys, if they have changed.
-- KEYS: the keys (hash: 'version', and 'k:' .. name → sealed record)
-- ARGV: version that the caller knows, or ''
-- returns: {version} if it is the same, else {version, field, value, …}
-- It changes nothing.
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version == ARGV[1] then
  return {version}
end
local all = redis.call('HGETALL', KEYS[1])
table.insert(all, 1, version)
return all
