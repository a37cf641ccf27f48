-- erase removes all keys of a batch.
-- KEYS: meta, state, ledger, actions, results, groups, deliveries
-- ARGV: owner
-- returns: {1, number of the webhook's delivery, limit that throttles the batch, token of its grant,
--          owner, target, lane, round, address account that the batch counts for, each or ''} |
--          {0} if the owner has no such batch
local m = redis.call('HMGET', KEYS[1], 'owner', 'sending', 'throttle', 'grant', 'target', 'lane', 'round', 'payer')
if m[1] ~= ARGV[1] then
  return {0}
end
redis.call('UNLINK', unpack(KEYS))
return {1, m[2] or '', m[3] or '', m[4] or '', m[1], m[5] or '', m[6] or '', m[7] or '', m[8] or ''}
