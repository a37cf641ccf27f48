-- forget_worker removes a dead worker, unless the worker has sent a beat since.
-- KEYS: workers (zset: name, last beat in ms)
-- ARGV: worker, ms without a beat after which a worker is dead
-- returns: 1 if it removed the worker | 0
-- Repeating it changes nothing.
local last = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not last or tonumber(last) > now_ms() - tonumber(ARGV[2]) then
  return 0
end
return redis.call('ZREM', KEYS[1], ARGV[1])
