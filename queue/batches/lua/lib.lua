-- A library of the steps on batches. It needs the library of times.
--
-- The state of action i is the byte at offset i of the state string:
--   p pending, waiting      r running, begun
--   w waiting with its group, which its first action leads      g begun with it
--   S succeeded  F failed  E errored  U unknown  C cancelled  X expired  K skipped
--   O unknown, overdue: no worker ever reported a result, so it has none
-- The ledger entry of action i is "token|attempts|first|started|earlier|worker", times in
-- milliseconds by the clock of the server that was the master then. From the batch's second
-- round on, the fifth field is "earlier.round": the attempts of earlier rounds, and the round
-- of this one. After a failover another clock counts, so times do not tell rounds apart.

local FIELD = {p = 'pending', r = 'pending', w = 'pending', g = 'pending', S = 'succeeded', F = 'failed', E = 'errored',
               U = 'unknown', O = 'unknown', C = 'cancelled', X = 'expired', K = 'skipped'}

-- GRACE is how much longer than deadline and retention the keys of a batch that
-- has not ended live: what is in flight at the deadline may take its time.
local GRACE = 8 * 3600 * 1000

local function parse_entry(packed)
  if not packed then
    return nil
  end
  local token, attempts, first, started, earlier, round, worker = string.match(packed, '^([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)%.?(%d*)|(.*)$')
  return {token = token, attempts = tonumber(attempts), first = first, started = started, earlier = tonumber(earlier), round = round, worker = worker}
end

local function read_entry(key, index)
  return parse_entry(redis.call('HGET', key, index))
end

local function format_entry(e)
  local round = e.round ~= '' and '.' .. e.round or '' -- '' is the first
  return e.token .. '|' .. e.attempts .. '|' .. e.first .. '|' .. e.started .. '|' .. e.earlier .. round .. '|' .. e.worker
end

-- last_of is the field of the groups hash with what the last attempt at an action came
-- to that waits for its next one, or ended while it did: 'p' and the sealed result. In a
-- batch that is retried, the state in which that action ended takes the place of 'p';
-- what was overdue has 'O' and 'attempts|started'.
local function last_of(index)
  return 'o' .. index
end

local function write_entry(key, index, e)
  redis.call('HSET', key, index, format_entry(e))
end

-- put_states writes states of actions, by ascending index. Those of neighbours are
-- written together.
local function put_states(key, indexes, states)
  local from = 1
  for n = 1, #indexes do
    if n == #indexes or indexes[n + 1] ~= indexes[n] + 1 then
      redis.call('SETRANGE', key, indexes[from], table.concat(states, '', from, n))
      from = n + 1
    end
  end
end

-- move changes the counts as n actions go from one state to another, and returns
-- how many are left of the former.
local function move(meta, from, to, n)
  redis.call('HINCRBY', meta, FIELD[to], n)
  return redis.call('HINCRBY', meta, FIELD[from], -n)
end

-- read_group returns the indexes of a group's members as text, the number of its
-- record, and the sealed record.
local function read_group(key, leader)
  local packed = redis.call('HGET', key, leader)
  if not packed then
    return nil
  end
  return string.match(packed, '^([%d,]+)|(%d+)|(.*)$')
end

-- read_results returns the states of up to limit actions and their results, up to the one
-- with which they are too large, and how many bytes are left of what they may have. A result
-- that is not there is an empty string.
local function read_results(state, results, from, limit, bytes)
  local states, found = redis.call('GETRANGE', state, from, from + limit - 1), {}
  for i = 1, #states do
    local result = redis.call('HGET', results, string.format('%d', from + i - 1)) or ''
    found[i] = result
    bytes = bytes - #result
    if bytes <= 0 then
      break
    end
  end
  return states, found, bytes
end

-- settle turns the batch terminal once nothing of it is pending: it says how it
-- ended, writes the outbox mark of its webhook, starts its retention, and wakes
-- those who wait. It returns the number of the webhook's delivery, or '0' if the
-- batch has not ended or has no webhook. Every delivery of a batch has a number of
-- its own (sending); a later number withdraws the earlier ones.
-- keys: meta, state, ledger, actions, results, groups; word: what wakes them
local function settle(keys, word, channel, now)
  local m = redis.call('HMGET', keys[1], 'pending', 'ending', 'retention', 'webhook')
  if tonumber(m[1]) > 0 then
    return '0'
  end
  local status = m[2] or 'completed'
  if status == 'expired' and redis.call('HGET', keys[1], 'expired') == '0' then
    status = 'completed' -- the deadline passed, and nothing was left for it to end
  end
  local gone = now + tonumber(m[3])
  redis.call('HSET', keys[1], 'status', status, 'ended', ms(now), 'gone', ms(gone))
  local delivery = '0'
  if m[4] then
    delivery = string.format('%d', redis.call('HINCRBY', keys[1], 'sending', 1))
    redis.call('HSET', keys[1], 'outbox', delivery, 'delivery', 'pending')
  else
    for _, key in ipairs(keys) do
      redis.call('PEXPIREAT', key, ms(gone))
    end
  end
  redis.call('PUBLISH', channel, word)
  return delivery
end

-- end_waiting ends every action that is not begun, in one step.
local function end_waiting(keys, state, ending)
  local states = redis.call('GET', keys[2])
  local changed, n = string.gsub(states, '[pw]', state)
  if n > 0 then
    redis.call('SETRANGE', keys[2], 0, changed)
    move(keys[1], 'p', state, n)
  end
  if redis.call('HEXISTS', keys[1], 'ending') == 0 then
    redis.call('HSET', keys[1], 'ending', ending)
  end
end
