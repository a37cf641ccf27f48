-- beat records that a worker is alive, and returns the dead workers: those whose last beat is too
-- old by this server's clock.
-- KEYS: workers (zset: name, last beat in ms)
-- ARGV: worker, ms without a beat after which a worker is dead, time of the worker's last
--       beat as this step returned it, or ''
-- returns: {time of this beat in ms, '1' if this server has forgotten the last beat, else '0',
--          dead workers...}
-- Repeating it records a later beat.
local now = now_ms()
local last = redis.call('ZSCORE', KEYS[1], ARGV[1])
local forgotten = ARGV[3] ~= '' and (not last or tonumber(last) < tonumber(ARGV[3]))
redis.call('ZADD', KEYS[1], ms(now), ARGV[1])
local answer = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms(now - tonumber(ARGV[2])))
table.insert(answer, 1, forgotten and '1' or '0')
table.insert(answer, 1, ms(now))
return answer
