-- erase removes a batch and all that belongs to it.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries
-- ARGV: owner
-- returns: 1 | 0 if there is no such batch of this owner
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
