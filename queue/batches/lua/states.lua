-- The state of action i of a batch is the byte at offset i of the state string:
--   p pending, waiting      r running, begun
--   w waiting with its group, which its first action leads      g begun with it
--   S succeeded  F failed  E errored  U unknown  C cancelled  X expired  K skipped
--   O unknown, overdue: no worker ever reported a result, so it has none

-- FIELD has for each state the field of the meta hash that counts it.
local FIELD = {p = 'pending', r = 'pending', w = 'pending', g = 'pending', S = 'succeeded', F = 'failed', E = 'errored',
               U = 'unknown', O = 'unknown', C = 'cancelled', X = 'expired', K = 'skipped'}

-- put_states writes the states of actions, by ascending index, with one command for each run of
-- neighbours.
local function put_states(key, indexes, states)
  local from = 1
  for n = 1, #indexes do
    if n == #indexes or indexes[n + 1] ~= indexes[n] + 1 then
      redis.call('SETRANGE', key, indexes[from], table.concat(states, '', from, n))
      from = n + 1
    end
  end
end

-- move changes the counts for n actions that go from one state to another, and returns the remaining
-- count of the former.
local function move(meta, from, to, n)
  redis.call('HINCRBY', meta, FIELD[to], n)
  return redis.call('HINCRBY', meta, FIELD[from], -n)
end

-- end_waiting ends every waiting action in a state. It notes why the batch ends early, unless another
-- reason is noted.
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
