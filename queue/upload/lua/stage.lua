-- stage adds actions to an upload that is not committed, and keeps it alive.
-- KEYS: actions, meta
-- ARGV: time to live in ms, then index and sealed action in turn
-- returns: the number of actions staged so far
-- After the commit, a late or repeated step changes nothing.
if redis.call('EXISTS', KEYS[2]) == 0 then
  local fields = {}
  for i = 2, #ARGV do
    fields[i - 1] = ARGV[i]
  end
  redis.call('HSET', KEYS[1], unpack(fields))
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('HLEN', KEYS[1])
