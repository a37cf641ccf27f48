-- enqueued clears the outbox mark of a delivery, whose task exists.
-- KEYS: meta
-- ARGV: number of the delivery
-- returns: 1 | 0 if the mark is not this delivery's
if redis.call('HGET', KEYS[1], 'outbox') ~= ARGV[1] then
  return 0
end
return redis.call('HDEL', KEYS[1], 'outbox')
