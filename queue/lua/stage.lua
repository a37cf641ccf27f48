-- stage adds actions to an upload that is not committed, and keeps it alive.
-- KEYS: actions
-- ARGV: time to live in ms, then index and sealed action in turn
-- returns: the number of actions staged so far
local fields = {}
for i = 2, #ARGV do
  fields[i - 1] = ARGV[i]
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HLEN', KEYS[1])
