-- due_batches claims the open batches that are due, the earliest first: it makes them due again only
-- after a long time. The sweeper that claimed them soon sets when each is due next.
-- KEYS: open (zset: batch id, ms at which it is due; 0 or less means at once), alert
-- ARGV: most batches to claim, ms by which to delay them, further ms for each open batch, ms up to
--       which a batch counts as due, or '' for now
-- returns: {now ms, number of open batches, remaining ms of the alert or 0, id, ...}
-- Repeating it claims the next batches; the first ones stay claimed for the long time.
local now, open = now_ms(), redis.call('ZCARD', KEYS[1])
local off = ms(now + tonumber(ARGV[2]) + open * tonumber(ARGV[3]))
local answer = {ms(now), open, math.max(0, redis.call('PTTL', KEYS[2]))}
local upto = ARGV[4] ~= '' and ARGV[4] or ms(now)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', upto, 'LIMIT', 0, ARGV[1])
if #ids > 0 then
  local entries = {}
  for _, id in ipairs(ids) do
    answer[#answer + 1] = id
    entries[#entries + 1] = off
    entries[#entries + 1] = id
  end
  redis.call('ZADD', KEYS[1], unpack(entries))
end
return answer
