-- swap replaces a sealed value, unless it has changed since it was read. It does not change when the key expires.
-- KEYS: key with sealed values: a hash or, of the kind w, a list or, of the kind string, a string
-- ARGV: kind of the key, field, value as it was read, new value
-- returns: 1 | 0 if the value is another one now, or gone
-- Repeating it changes nothing.
if ARGV[1] == 'w' then
  for position, value in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    if value == ARGV[3] then
      redis.call('LSET', KEYS[1], position - 1, ARGV[4])
      return 1
    end
  end
  return 0
end
if ARGV[1] == 'string' then
  if redis.call('GET', KEYS[1]) ~= ARGV[3] then
    return 0
  end
  redis.call('SET', KEYS[1], ARGV[4], 'KEEPTTL')
  return 1
end
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
return 1
