-- offer lets actions of a batch wait for their tasks, and wakes the workers.
-- KEYS: flows of the fair queue (see lua/fair.lua), then the meta key of the batch if it must exist; a cluster has that elsewhere
-- ARGV: prefix of the fair queue, owner, batch id, round or '' for the first, index up to which this
--       offers the batch, channel, wakeup message for workers or '', then ranges of indexes
-- returns: 1 if something waits that did not wait before, else 0
-- Repeating an offer changes nothing while actions of the batch wait: it says up to which index they
-- were offered. Later it lets them wait again: an action that has a task gets no second one, and one
-- that has ended is not begun.
local prefix, owner, flow, round, upto = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then
  return 0
end
local was, offered, of = read_flow(prefix, flow)
if was and was ~= round then -- what waits is left from another round
  remove_flow(prefix, flow, of)
  was = nil
end
local from = was and tonumber(offered) or 0
local ranges, n = {}, 0
for i = 8, #ARGV do
  local first, last, phase = string.match(ARGV[i], '^(%d+)%-(%d+)(.*)$')
  if tonumber(last) > from then
    local range = ms(math.max(tonumber(first), from)) .. '-' .. last .. phase
    ranges[#ranges + 1] = range
    n = n + size(range)
  end
end
if #ranges == 0 then
  return 0
end
redis.call('RPUSH', prefix .. 'b:' .. flow, unpack(ranges))
count(prefix, n)
redis.call('HSET', KEYS[1], flow, round .. '|' .. ms(upto) .. '|' .. owner)
if not was then
  redis.call('RPUSH', prefix .. 'o:' .. owner, flow)
  if n <= SMALL then
    redis.call('RPUSH', prefix .. 's:' .. owner, flow)
  end
  join(prefix, owner)
end
if ARGV[7] ~= '' then
  redis.call('PUBLISH', ARGV[6], ARGV[7])
end
return 1
