-- read returns a session, and ends one that was idle for too long.
-- KEYS: the sessions of a group (hash: 'v' .. id → sealed record, 't' .. id → when it was used, in ms)
-- ARGV: id, most idle time in ms, '1' if the session is used now or '0'
-- returns: sealed record | '' if there is none
-- If the step is repeated, the session counts as used at the later time.
local found = redis.call('HMGET', KEYS[1], 'v' .. ARGV[1], 't' .. ARGV[1])
if not found[1] or not found[2] then
  return ''
end
local now = now_ms()
local idle = now - tonumber(found[2])
if idle > tonumber(ARGV[2]) then
  redis.call('HDEL', KEYS[1], 'v' .. ARGV[1], 't' .. ARGV[1])
  return ''
end
if ARGV[3] == '1' and idle * 20 > tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 't' .. ARGV[1], ms(now))
end
return found[1]
