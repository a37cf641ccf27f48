-- resign gives up the lease of the sweeper, unless another worker holds it.
-- KEYS: the lease: sweeper, or recovery for the worker that recovers actions of dead workers
-- ARGV: worker
-- returns: 1 if the worker held it | 0
-- Repeating it changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
