-- enqueued clears the outbox mark of a delivery. Its task exists.
-- KEYS: meta
-- ARGV: number of the delivery
-- returns: 1 | 0 if the mark is that of another delivery or cleared
-- Repeating it changes nothing.
if redis.call('HGET', KEYS[1], 'outbox') ~= ARGV[1] then
  return 0
end
return redis.call('HDEL', KEYS[1], 'outbox')
