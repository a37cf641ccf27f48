-- beat says that a worker is alive, and names those that have not said so for
-- too long. Only this server's clock counts.
-- KEYS: workers (zset: name, last beat in ms)
-- ARGV: worker, ms without a beat after which a worker is dead
-- returns: the dead ones
local now = now_ms()
redis.call('ZADD', KEYS[1], ms(now), ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms(now - tonumber(ARGV[2])))
