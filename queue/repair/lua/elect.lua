-- elect gives a worker the lease of a service, or extends it, unless another worker holds it. One
-- worker at a time runs such a service.
-- KEYS: the lease
-- ARGV: worker, lease ms
-- returns: 'other' if another worker holds the lease | 'renewed' if the worker held it before |
--          'taken' if no worker held it
-- Repeating it extends the lease, and returns 'renewed'.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 'other'
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return holder and 'renewed' or 'taken'
