-- offer adds actions of a batch to a fair queue, and wakes the workers.
-- KEYS: m, o, p, n, o:<owner>, b:<flow>, s:<owner>, g and v of the fair queue (see fair.lua), then the meta key
--       of the batch if it must exist (not on a cluster, which has that key on another node)
-- ARGV: prefix of the fair queue, owner, batch id, round or '' for the first, index up to which this
--       offers the batch, channel, wakeup message for workers or '', then ranges of indexes in ascending order
-- returns: 1 if it added an action, else 0
-- Actions that wait already are left out, so repeating an offer changes nothing while they wait. Repeating it
-- later adds them again, which is harmless: an action that has a task gets no second one, and the ledger does
-- not begin an action that has ended. An offer of an earlier round than the waiting one is late and ignored.
local prefix, owner, flow, round, upto = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if KEYS[10] and redis.call('EXISTS', KEYS[10]) == 0 then
  return 0
end
local was, offered, of = read_flow(prefix, flow)
if was and was ~= round then
  if (tonumber(was) or 1) > (tonumber(round) or 1) then
    return 0
  end
  remove_flow(prefix, flow, of) -- the flow of an earlier round
  was = nil
end
offered = was and tonumber(offered) or 0

-- waiting returns the bounds of the waiting ranges, in ascending order.
local function waiting()
  local found, sorted = {}, true
  for i, range in ipairs(redis.call('LRANGE', KEYS[6], 0, -1)) do
    local first, last = string.match(range, '^(%d+)%-(%d+)')
    found[i] = {first = tonumber(first), last = tonumber(last)}
    sorted = sorted and (i == 1 or found[i - 1].first <= found[i].first)
  end
  if not sorted then
    table.sort(found, function(a, b) return a.first < b.first end)
  end
  return found
end

local ranges, n = {}, 0
local function add(first, last, phase)
  local range = ms(first) .. '-' .. ms(last) .. phase
  local actions = size(range)
  if actions > 0 then
    ranges[#ranges + 1] = range
    n = n + actions
  end
end
local waits, at = nil, 1
for i = 8, #ARGV do
  local first, last, phase = string.match(ARGV[i], '^(%d+)%-(%d+)(.*)$')
  first, last = tonumber(first), tonumber(last)
  if first < offered then -- some of it may wait
    waits = waits or waiting()
    while waits[at] and waits[at].last <= first do
      at = at + 1
    end
    local k = at
    while waits[k] and waits[k].first < last do
      if waits[k].first > first then
        add(first, waits[k].first, phase)
      end
      first = math.max(first, waits[k].last)
      k = k + 1
    end
  end
  if first < last then
    add(first, last, phase)
  end
end
if was or #ranges > 0 then
  if not was or redis.call('EXISTS', KEYS[5]) == 0 then
    redis.call('RPUSH', KEYS[5], flow)
    if n > 0 and n <= SMALL then
      redis.call('RPUSH', prefix .. 's:' .. owner, flow)
    end
  end
  join(prefix, owner)
end
if #ranges == 0 then
  return 0
end
for i = 1, #ranges, 1000 do -- unpack accepts only some thousand arguments
  redis.call('RPUSH', KEYS[6], unpack(ranges, i, math.min(i + 999, #ranges)))
end
count(prefix, n)
redis.call('HSET', KEYS[1], flow, round .. '|' .. ms(math.max(upto, offered)) .. '|' .. owner)
if ARGV[7] ~= '' then
  redis.call('PUBLISH', ARGV[6], ARGV[7])
end
return 1
