-- drop removes the staged actions and groups of a batch, unless the batch exists.
-- KEYS: meta, actions, groups
-- returns: 1, or 0 if the batch exists
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('UNLINK', KEYS[2], KEYS[3])
return 1
