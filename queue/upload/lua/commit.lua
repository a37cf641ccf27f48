-- commit creates a batch. Before the step no reader can see the batch; after it the
-- batch is complete.
-- KEYS: meta, state, ledger, actions, results, groups, upload, then, unless Redis is a cluster,
--       which has these in other slots: the owner's list, the list of open batches, the list of throttled
--       batches, the list of all batches, and the idempotency key, which must still name this batch
-- ARGV: number of actions, '1' if the upload marker must still exist,
--       expires_in ms, retention ms, number of groups, the states or '' if no
--       action waits for its group, batch id, time to live of the idempotency key in ms, ms that
--       the owner's list and that of all batches live, ms at which the reservation of the quotas ends, or '' without
--       quotas, then field and value of the meta hash in turn
-- returns: {'ok', created ms, created in microseconds} | {'lost'}
-- If the step is repeated after it succeeded, it returns the same answer and changes nothing.
local created = redis.call('HGET', KEYS[1], 'created')
if created then
  return {'ok', created, created .. '000'}
end
local n = tonumber(ARGV[1])
if (ARGV[2] == '1' and redis.call('EXISTS', KEYS[7]) == 0) or redis.call('HLEN', KEYS[4]) ~= n
  or redis.call('HLEN', KEYS[6]) ~= tonumber(ARGV[5]) or (KEYS[12] and redis.call('GET', KEYS[12]) ~= ARGV[7]) then
  return {'lost'}
end
local us = now_us()
local now = math.floor(us / 1000)
if ARGV[10] ~= '' and now > tonumber(ARGV[10]) then
  return {'lost'} -- the batch may no longer be counted
end
local expires = now + tonumber(ARGV[3])
local gone = expires + tonumber(ARGV[4]) + GRACE
local fields = {}
for i = 11, #ARGV do
  fields[i - 10] = ARGV[i]
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('HSET', KEYS[1], 'status', 'queued', 'total', n, 'pending', n, 'succeeded', 0, 'failed', 0, 'errored', 0,
  'unknown', 0, 'cancelled', 0, 'expired', 0, 'skipped', 0, 'created', ms(now), 'expires', ms(expires),
  'retention', ARGV[4], 'gone', ms(gone), 'enqueued', 0)
if ARGV[6] == '' then
  redis.call('SET', KEYS[2], string.rep('p', n))
else
  redis.call('SET', KEYS[2], ARGV[6])
  redis.call('HSET', KEYS[1], 'groups', ARGV[5])
  redis.call('PEXPIREAT', KEYS[6], ms(gone))
end
redis.call('PEXPIREAT', KEYS[1], ms(gone))
redis.call('PEXPIREAT', KEYS[2], ms(gone))
redis.call('PEXPIREAT', KEYS[4], ms(gone))
redis.call('DEL', KEYS[7])
if KEYS[8] then
  list(KEYS[8], ARGV[7], us, tonumber(ARGV[9]))
  list(KEYS[11], ARGV[7] .. ' ' .. redis.call('HGET', KEYS[1], 'owner'), us, tonumber(ARGV[9]))
  redis.call('ZADD', KEYS[9], 0, ARGV[7])
  if redis.call('HEXISTS', KEYS[1], 'throttle') == 1 then
    redis.call('ZADD', KEYS[10], 0, ARGV[7])
  end
end
if KEYS[12] then
  redis.call('PEXPIRE', KEYS[12], ARGV[8])
end
return {'ok', ms(now), ms(us)}
