-- begin marks actions as running, before a worker sends any byte of them.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, worker, token of the holder from which to take a group, or '', then
--       index and token of each action, by ascending index
-- returns: {expires ms, target, number of the webhook's delivery if this ended the batch, or '0',
--          start ms, round of the batch, or '' in the first round, {owner, target, lane, round} if
--          this ended the waiting actions, else '', {owner, lane, total, groups, head}, which the caller
--          verifies with the target before it acts, then one item for each action:
--          1: 'run', for the first attempt at an action without a group
--          {verdict, ledger entry, sealed record of the group that the action leads, or '', sealed
--          result from before the retry of the batch, or '', result of the action's last attempt in
--          the form of last_of, or ''}. In the first round of a batch, the last two are ''.
--          {verdict}: the verdict is 'ended', 'gone', 'waiting' or 'released'
--          verdict: 'run' | 'interrupted': another attempt is in flight | 'held': another worker
--          holds the group, and the entry names it | 'ended' | 'gone' | 'waiting' | 'released'
-- The first action of a group begins the whole group. A begin of a group that has begun already
-- takes the group over, with the progress in its record.
-- Repeating a begin with the same token returns the same answer as the first run, unless a worker
-- has released the action with that token: then the step begins nothing.
local m = redis.call('HMGET', KEYS[1], 'status', 'expires', 'target', 'gone', 'groups', 'handed', 'round', 'owner', 'lane',
  'total', 'head')
local handed = m[6] and tonumber(m[6]) -- of a throttled batch: the first action that may not run yet
local round = m[7] or '' -- '' is the first round
local answer = {m[2] or '0', m[3] or '', '0', '0', round, '', {m[8] or '', m[9] or '', m[10] or '', m[5] or '', m[11] or ''}}
if not m[1] then
  for _ = 5, #ARGV, 2 do
    answer[#answer + 1] = {'gone'}
  end
  return answer
end
local first, last = tonumber(ARGV[5]), tonumber(ARGV[#ARGV - 1])
local now = now_ms()
local states = redis.call('GETRANGE', KEYS[2], first, last)
if now >= tonumber(m[2]) and string.find(states, '[pw]') then
  end_waiting(KEYS, 'X', 'expired')
  answer[3] = settle(KEYS, ARGV[1], ARGV[2], now)
  answer[6] = {m[8] or '', m[3] or '', m[9] or '', round}
  states = redis.call('GETRANGE', KEYS[2], first, last)
end
local indexes = {}
for i = 5, #ARGV, 2 do
  indexes[#indexes + 1] = ARGV[i]
end
local entries = redis.call('HMGET', KEYS[3], unpack(indexes))
local started = ms(now)
answer[4] = started
local earlier = round ~= '' and '0.' .. round or '0'
local fresh = '|1|' .. started .. '|' .. started .. '|' .. earlier .. '|' .. ARGV[3] -- the entry of a first attempt, without its token
local begun, running, written = {}, {}, {}
local function begin(number, index, entry)
  begun[#begun + 1] = number
  running[#running + 1] = 'r'
  written[#written + 1] = index
  written[#written + 1] = entry
end
for n, index in ipairs(indexes) do
  local token = ARGV[2 * n + 4]
  local number = tonumber(index)
  local at = number - first + 1
  local state = string.sub(states, at, at)
  local verdict
  if state == '' then
    verdict = {'gone'}
  elseif state == 'w' or state == 'g' then
    verdict = {'waiting'}
  elseif state ~= 'p' and state ~= 'r' then
    verdict = {'ended'}
  elseif state == 'p' and handed and number >= handed then
    verdict = {'waiting'} -- the task is left over from an earlier round
  elseif state == 'p' and not entries[n] and not m[5] then
    verdict = 1
    begin(number, index, token .. fresh)
  elseif state == 'p' and entries[n] and string.sub(entries[n], 1, #token + 1) == token .. '|' then
    verdict = {'released'}
  else
    local e = parse_entry(entries[n]) or {attempts = 0, earlier = 0, first = started, started = started, round = round}
    local what = 'run'
    local members, record, _
    if m[5] then
      members, _, record = read_group(KEYS[6], index)
    end
    if state == 'r' and e.token == token then
      what = 'run' -- a repeat of the same begin
    elseif state == 'r' and not members then
      what = 'interrupted'
    elseif state == 'r' and e.token ~= ARGV[4] then
      what = 'held'
    else
      if e.round ~= round then
        e.earlier, e.round = e.attempts, round -- each round counts its own attempts
      end
      e.token, e.attempts, e.started, e.worker = token, e.attempts + 1, started, ARGV[3]
      if e.attempts == e.earlier + 1 then
        e.first = started
      end
      if members and state == 'p' then
        for member in string.gmatch(members, '%d+') do
          redis.call('SETRANGE', KEYS[2], member, 'g')
          if member ~= index then
            redis.call('HSET', KEYS[3], member, '|0|' .. started .. '|' .. started .. '|0|' .. ARGV[3])
          end
        end
      end
      begin(number, index, format_entry(e))
    end
    verdict = {what, format_entry(e), record or '', round ~= '' and redis.call('HGET', KEYS[5], index) or '',
               round ~= '' and redis.call('HGET', KEYS[6], last_of(index)) or ''}
  end
  answer[#answer + 1] = verdict
end
if #begun > 0 then
  put_states(KEYS[2], begun, running)
  redis.call('HSET', KEYS[3], unpack(written))
  if m[1] == 'queued' then
    redis.call('HSET', KEYS[1], 'status', 'running', 'started', ms(now))
    redis.call('PEXPIREAT', KEYS[3], m[4])
  end
end
return answer
