-- put stores a session. While there are too many of them, it ends the one that was not used for the longest time.
-- KEYS: the sessions of a group (hash: 'v' .. id → sealed record, 't' .. id → when it was used, in ms)
-- ARGV: id, sealed record, lifetime in ms, most sessions
-- returns: 1
-- If the step is repeated, the session counts as used at the later time.
local count, oldest, oldest_at = 0, nil, nil
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local id = string.sub(all[i], 2)
  if string.sub(all[i], 1, 1) == 't' and id ~= ARGV[1] then
    count = count + 1
    local at = tonumber(all[i + 1])
    if not oldest or at < oldest_at then
      oldest, oldest_at = id, at
    end
  end
end
if count >= tonumber(ARGV[4]) then
  redis.call('HDEL', KEYS[1], 'v' .. oldest, 't' .. oldest)
end
redis.call('HSET', KEYS[1], 'v' .. ARGV[1], ARGV[2], 't' .. ARGV[1], ms(now_ms()))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
