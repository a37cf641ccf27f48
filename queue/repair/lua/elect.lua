-- elect makes a worker the sweeper, or extends its lease, unless another worker holds it.
-- KEYS: the lease: sweeper, or recovery for the worker that recovers actions of dead workers
-- ARGV: worker, lease ms
-- returns: 'other' if another worker is the sweeper | 'renewed' if the worker was the sweeper before |
--          'taken' if no worker was the sweeper
-- Repeating it extends the lease, and returns 'renewed'.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 'other'
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return holder and 'renewed' or 'taken'
