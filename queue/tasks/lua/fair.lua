-- The fair queue of one asynq queue {q}. It has the actions that wait for their tasks; a task is
-- created by the poll that takes it.
--
--   <prefix>o          zset    owners with waiting actions, by virtual time: the number of actions that
--                              each of them got
--   <prefix>p          zset    owners without waiting actions whose virtual time is ahead
--   <prefix>v          string  the latest virtual time at which an owner had its turn
--   <prefix>o:<owner>  list    the owner's flows in the order of their turns. A flow is a batch.
--   <prefix>s:<owner>  list    those of them that were offered with SMALL actions at the most
--   <prefix>g          hash    owner → the number of actions that small flows got since another one had its turn
--   <prefix>b:<flow>   list    ranges of indexes, "from-to", on a cluster "from-to-phase": there a
--                              queue has every SHARDS-th run of RUN neighbours, and the phase says which
--   <prefix>n          string  the number of waiting actions
--   <prefix>m          hash    flow → "round|up to|owner": the round, and the index up to which any of it was offered
--
-- The owner with the least virtual time is next. An owner that comes starts SMALL before v, so that a
-- small batch does not wait for the turns of others, or at its own time if that is later: being idle
-- earns SMALL actions at the most, and leaving and coming back earns nothing. For the same reason an
-- owner's small flows come before its others, which have a turn after every SMALL_MOST actions of
-- these. Empty keys do not exist: without waiting actions nothing is left in Redis.

local RUN, SHARDS = 64, 8

-- A poll takes so many actions of a flow before the next owner or the owner's next flow has its
-- turn: neighbours are begun together, which costs less. LOOKS is about the most actions that a poll looks at.
local QUANTUM_LEAST, QUANTUM_MOST, LOOKS = 4, 16, 2000
local SMALL, SMALL_MOST = 16, 32

-- least returns the owner that is next and its virtual time, or nothing.
local function least(prefix)
  local first = redis.call('ZRANGE', prefix .. 'o', 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- clock returns the latest virtual time at which an owner had its turn.
local function clock(prefix)
  return tonumber(redis.call('GET', prefix .. 'v') or '0')
end

-- join lets an owner wait.
local function join(prefix, owner)
  if redis.call('ZSCORE', prefix .. 'o', owner) then
    return
  end
  local time = clock(prefix) - SMALL
  local own = tonumber(redis.call('ZSCORE', prefix .. 'p', owner) or time)
  redis.call('ZADD', prefix .. 'o', ms(math.max(time, own)), owner)
  redis.call('ZREM', prefix .. 'p', owner)
end

-- leave takes out an owner that has no waiting actions.
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
-- nothing if none of it waits.
local function read_flow(prefix, flow)
  local packed = redis.call('HGET', prefix .. 'm', flow)
  if packed then
    return string.match(packed, '^(%d*)|(%d+)|(.*)$')
  end
end

-- count changes the number of waiting actions.
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

-- drop forgets a flow that is not in the owner's list any more and, after its last flow, the owner.
local function drop(prefix, flow, owner)
  redis.call('LREM', prefix .. 's:' .. owner, 1, flow)
  redis.call('HDEL', prefix .. 'm', flow)
  redis.call('DEL', prefix .. 'b:' .. flow)
  if redis.call('EXISTS', prefix .. 'o:' .. owner) == 0 then
    leave(prefix, owner)
  end
end

-- remove_flow takes out a flow and, after its last flow, the owner.
local function remove_flow(prefix, flow, owner)
  local n = 0
  for _, range in ipairs(redis.call('LRANGE', prefix .. 'b:' .. flow, 0, -1)) do
    n = n + size(range)
  end
  count(prefix, -n)
  redis.call('LREM', prefix .. 'o:' .. owner, 1, flow)
  drop(prefix, flow, owner)
end

-- remove_rest takes out what is left of an owner's flow of which a key is missing, or, without a flow, what is
-- left of an owner whose list of flows is missing. The sweeper offers those actions again.
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

-- cut takes up to n indexes from the start of a range. It returns them and the rest of the range, or
-- nil if it is empty.
local function cut(range, n)
  local from, to, phase = string.match(range, '^(%d+)%-(%d+)%-?(%d*)$')
  local at, indexes = tonumber(from), {}
  to, phase = tonumber(to), tonumber(phase)
  local function skip() -- the runs of other queues
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
