-- The ledger entry of action i is "token|attempts|first|started|earlier|worker", with times in
-- milliseconds by the clock of the server that was the master then. From the second round of the
-- batch on, the fifth field is "earlier.round": the number of attempts in earlier rounds, and the
-- round that the other fields are about. After a failover another clock counts, so times do not tell
-- rounds apart.

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

local function write_entry(key, index, e)
  redis.call('HSET', key, index, format_entry(e))
end

-- last_of returns the field of the groups hash with the last attempt at an action that waits for the
-- next attempt, or ended while it waited. The value is 'p' and the sealed result. A retry of the batch
-- replaces 'p' by the state in which the action ended; for an overdue action it writes 'O' and
-- 'attempts|started'.
local function last_of(index)
  return 'o' .. index
end
