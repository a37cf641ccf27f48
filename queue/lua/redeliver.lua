-- redeliver writes the outbox mark of a batch that has ended once more.
-- KEYS: meta
-- ARGV: owner
-- returns: 'ok' | 'gone' | 'no_webhook' | 'not_terminal'
local m = redis.call('HMGET', KEYS[1], 'owner', 'webhook', 'ended')
if m[1] ~= ARGV[1] then
  return 'gone'
end
if not m[2] then
  return 'no_webhook'
end
if not m[3] then
  return 'not_terminal'
end
redis.call('HSET', KEYS[1], 'outbox', '1')
return 'ok'
