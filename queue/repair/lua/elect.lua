-- elect makes a worker the sweeper, or extends its lease, unless another worker holds it.
-- KEYS: sweeper
-- ARGV: worker, lease ms
-- returns: 'other' if another worker is the sweeper | 'renewed' if the worker was it before |
--          'taken' if no worker was
-- Repeating it extends the lease, and returns 'renewed'.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 'other'
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return holder and 'renewed' or 'taken'
