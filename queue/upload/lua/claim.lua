-- claim sets the batch of an idempotency key, if the key still has the value that the
-- caller read.
-- KEYS: idempotency key
-- ARGV: batch id seen or '', batch id, time to live in ms
-- returns: the batch id that the key has now
local seen = redis.call('GET', KEYS[1]) or ''
if seen ~= ARGV[1] and seen ~= ARGV[2] then
  return seen
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return ARGV[2]
