-- redeliver starts another delivery of the webhook of a batch that has ended, and marks it as due. The
-- delivery before is withdrawn.
-- KEYS: meta
-- ARGV: owner
-- returns: {'ok', number of the delivery, number of the one before} | {'gone'} | {'no_webhook'} | {'not_terminal'}
-- Repeating it withdraws the delivery that the first one made.
local m = redis.call('HMGET', KEYS[1], 'owner', 'webhook', 'ended', 'sending')
if m[1] ~= ARGV[1] then
  return {'gone'}
end
if not m[2] then
  return {'no_webhook'}
end
if not m[3] then
  return {'not_terminal'}
end
local delivery = string.format('%d', redis.call('HINCRBY', KEYS[1], 'sending', 1))
redis.call('HSET', KEYS[1], 'outbox', delivery, 'delivery', 'pending')
redis.call('HDEL', KEYS[1], 'next')
return {'ok', delivery, m[4]}
