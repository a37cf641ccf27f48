-- beat records that a worker is alive, and returns the workers whose last beat is too old.
-- Only this server's clock counts.
-- KEYS: workers (zset: name, last beat in ms)
-- ARGV: worker, ms without a beat after which a worker is dead, time of the worker's last
--       beat as this step answered it, or ''
-- returns: {time of this beat in ms, '1' if the last one is forgotten or '0', dead workers...}
local now = now_ms()
local last = redis.call('ZSCORE', KEYS[1], ARGV[1])
local forgotten = ARGV[3] ~= '' and (not last or tonumber(last) < tonumber(ARGV[3]))
redis.call('ZADD', KEYS[1], ms(now), ARGV[1])
local answer = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms(now - tonumber(ARGV[2])))
table.insert(answer, 1, forgotten and '1' or '0')
table.insert(answer, 1, ms(now))
return answer
