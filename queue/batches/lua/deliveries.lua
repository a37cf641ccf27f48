-- deliveries reads the hash of a batch and the log of its webhook, as they are at one moment.
-- KEYS: meta, deliveries
-- ARGV: owner
-- returns: {fields and values of the meta hash in turn, sealed attempts} | {{}, {}} if the owner has no such batch
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return {{}, {}}
end
return {redis.call('HGETALL', KEYS[1]), redis.call('LRANGE', KEYS[2], 0, -1)}
