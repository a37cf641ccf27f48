-- resign gives up the lease of a service, unless another worker holds it.
-- KEYS: the lease
-- ARGV: worker
-- returns: 1 if the worker held it | 0
-- Repeating it changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
