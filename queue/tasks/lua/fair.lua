-- The fair queue beside one asynq queue. It has the actions that wait for a task: the poll that takes an action
-- creates its task. This library needs that of times.
--
--   <prefix>o          zset    owners with waiting actions, by virtual time: the number of actions that polls
--                              have taken from the owner
--   <prefix>p          zset    owners without waiting actions whose virtual time is ahead
--   <prefix>v          string  the latest virtual time of an owner when a poll took actions from it
--   <prefix>o:<owner>  list    the owner's flows in the order in which polls take from them; a flow is a batch
--   <prefix>s:<owner>  list    those of them that were offered with at most SMALL actions
--   <prefix>g          hash    owner → the number of actions taken from small flows since the last other flow
--   <prefix>b:<flow>   list    ranges of indexes, "from-to", on a cluster "from-to-phase": there a queue has
--                              every SHARDS-th run of RUN neighbours, and the phase says which
--   <prefix>n          string  the number of waiting actions
--   <prefix>m          hash    flow → "round|up to|owner": the round, and the index up to which the batch was offered
--
-- A poll takes from the owner with the least virtual time. An owner that joins starts SMALL before v, so that a
-- small batch does not wait for the other owners, or at its own time if that is later: an owner gains at most
-- SMALL actions by being idle, and nothing by leaving and joining again. For the same reason polls take from an
-- owner's small flows first, and from another flow after every SMALL_MOST actions of these. Empty keys do not
-- exist: without waiting actions the fair queue has no keys.

local RUN, SHARDS = 64, 8

-- A poll takes QUANTUM_LEAST to QUANTUM_MOST actions of a flow before it goes on to the next owner or the owner's
-- next flow, because it costs less to begin neighbours together. A poll looks at about LOOKS actions at most.
local QUANTUM_LEAST, QUANTUM_MOST, LOOKS = 4, 16, 2000
local SMALL, SMALL_MOST = 16, 32

-- least returns the owner with the least virtual time and that time, or nothing.
local function least(prefix)
  local first = redis.call('ZRANGE', prefix .. 'o', 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- clock returns v.
local function clock(prefix)
  return tonumber(redis.call('GET', prefix .. 'v') or '0')
end

-- join adds an owner that has waiting actions.
local function join(prefix, owner)
  if redis.call('ZSCORE', prefix .. 'o', owner) then
    return
  end
  local time = clock(prefix) - SMALL
  local own = tonumber(redis.call('ZSCORE', prefix .. 'p', owner) or time)
  redis.call('ZADD', prefix .. 'o', ms(math.max(time, own)), owner)
  redis.call('ZREM', prefix .. 'p', owner)
end

-- leave removes an owner that has no waiting actions.
local function leave(prefix, owner)
  local own = tonumber(redis.call('ZSCORE', prefix .. 'o', owner) or '0')
  redis.call('ZREM', prefix .. 'o', owner)
  redis.call('HDEL', prefix .. 'g', owner)
  if redis.call('EXISTS', prefix .. 'o') == 0 then
    redis.call('DEL', prefix .. 'p', prefix .. 'v', prefix .. 'n')
    return
  end
  local time = clock(prefix) - SMALL
  redis.call('ZREMRANGEBYSCORE', prefix .. 'p', '-inf', ms(time))
  if own > time then
    redis.call('ZADD', prefix .. 'p', ms(own), owner)
  end
end

-- read_flow returns the round of a flow, the index up to which it was offered, and its owner, or
-- nothing if the flow is not there.
local function read_flow(prefix, flow)
  local packed = redis.call('HGET', prefix .. 'm', flow)
  if packed then
    return string.match(packed, '^(%d*)|(%d+)|(.*)$')
  end
end

-- count adds n to the number of waiting actions.
local function count(prefix, n)
  if n ~= 0 and redis.call('INCRBY', prefix .. 'n', ms(n)) <= 0 then
    redis.call('DEL', prefix .. 'n')
  end
end

-- size returns the number of indexes in a range.
local function size(range)
  local from, to, phase = string.match(range, '^(%d+)%-(%d+)%-?(%d*)$')
  if phase == '' then
    return tonumber(to) - tonumber(from)
  end
  local function below(at)
    local cycle = RUN * SHARDS
    return math.floor(at / cycle) * RUN + math.max(0, math.min(RUN, at % cycle - tonumber(phase) * RUN))
  end
  return below(tonumber(to)) - below(tonumber(from))
end

-- drop removes the rest of a flow that is not in the owner's list any more and, after the last flow, the owner.
local function drop(prefix, flow, owner)
  redis.call('LREM', prefix .. 's:' .. owner, 1, flow)
  redis.call('HDEL', prefix .. 'm', flow)
  redis.call('DEL', prefix .. 'b:' .. flow)
  if redis.call('EXISTS', prefix .. 'o:' .. owner) == 0 then
    leave(prefix, owner)
  end
end

-- remove_flow removes a flow and, after the last flow, the owner.
local function remove_flow(prefix, flow, owner)
  local n = 0
  for _, range in ipairs(redis.call('LRANGE', prefix .. 'b:' .. flow, 0, -1)) do
    n = n + size(range)
  end
  count(prefix, -n)
  redis.call('LREM', prefix .. 'o:' .. owner, 1, flow)
  drop(prefix, flow, owner)
end

-- remove_rest removes the other keys of an owner's flow of which one key is missing, or, without a flow, those of
-- an owner whose list of flows is missing. The sweeper offers the actions again.
local function remove_rest(prefix, owner, flow)
  if flow then
    remove_flow(prefix, flow, owner)
    return
  end
  local all = redis.call('HGETALL', prefix .. 'm')
  for i = 1, #all, 2 do
    local _, _, of = read_flow(prefix, all[i])
    if of == owner then
      remove_flow(prefix, all[i], owner)
    end
  end
  redis.call('DEL', prefix .. 's:' .. owner)
  leave(prefix, owner)
end

-- cut takes up to n indexes from the start of a range. It returns them, and the rest of the range or nil if
-- nothing is left.
local function cut(range, n)
  local from, to, phase = string.match(range, '^(%d+)%-(%d+)%-?(%d*)$')
  local at, indexes = tonumber(from), {}
  to, phase = tonumber(to), tonumber(phase)
  local function skip() -- skips the runs of other queues
    if phase then
      local run = math.floor(at / RUN)
      local off = (phase - run) % SHARDS
      if off > 0 then
        at = (run + off) * RUN
      end
    end
    return at < to
  end
  while #indexes < n and skip() do
    indexes[#indexes + 1] = at
    at = at + 1
  end
  if skip() then
    return indexes, ms(at) .. '-' .. ms(to) .. (phase and '-' .. ms(phase) or '')
  end
  return indexes, nil
end
