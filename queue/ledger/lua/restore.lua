-- restore repeats steps of a worker on actions where this server has forgotten them, because it
-- loaded a snapshot, or was a replica that lacked the last writes. It does not change an action whose
-- entry is as the worker left it, or newer.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, then index, ledger entry, state and sealed result of each action
--       state: 'r' if the action is in flight | 'p' if the worker released it; the result is that of
--       the attempt, or '' if the worker sent nothing | else the state of the action's result
-- returns: {number of the webhook's delivery if the outbox mark is set, or '0', target, lane, then
--          for each action 'known' | 'restored' | 'ended': the worker released it, but the batch is
--          ending | 'stale' | 'gone'}
-- The first action of a group begins the whole group again. Results need no room (room.lua): the batch had it
-- when the worker first stored them.
-- Repeating it returns 'known', and the number of the delivery as long as its task may be missing.
local m = redis.call('HMGET', KEYS[1], 'gone', 'target', 'lane', 'status', 'round', 'ending', 'groups', 'outbox')
local answer = {m[8] or '0', m[2] or '', m[3] or ''}
if not m[1] then
  for _ = 3, #ARGV, 4 do
    answer[#answer + 1] = 'gone'
  end
  return answer
end
local round = m[5] or ''
local counts, restored, left = {}, false, nil
for i = 3, #ARGV, 4 do
  local index, to, sealed = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  local mine, e = parse_entry(ARGV[i + 1]), read_entry(KEYS[3], index)
  local same = mine.round == round
  local state = redis.call('GETRANGE', KEYS[2], index, index)
  local verdict = 'stale'
  if e and e.token == mine.token then
    if state == to and (same or to ~= 'p') then
      verdict = 'known'
    elseif state == 'r' then
      verdict = 'restored'
    end
  elseif state == 'p' and same and (not e or e.attempts <= mine.attempts) then
    verdict = 'restored' -- the server has forgotten the begin, too: a later begin by another worker would have at least as many attempts
  end
  if verdict == 'restored' then
    restored = true
    write_entry(KEYS[3], index, mine)
    if to == 'p' and sealed ~= '' then
      redis.call('HINCRBY', KEYS[1], 'stored', 1 + #sealed - redis.call('HSTRLEN', KEYS[6], last_of(index)))
      redis.call('HSET', KEYS[6], last_of(index), 'p' .. sealed)
      redis.call('PEXPIREAT', KEYS[6], m[1])
    end
    if to == 'p' and m[6] then
      to = m[6] == 'cancelled' and 'C' or 'X'
      sealed = '' -- it is the result of an attempt, not of the action
      verdict = 'ended'
    end
    redis.call('SETRANGE', KEYS[2], index, to)
    if to == 'r' and m[7] then
      for member in string.gmatch(read_group(KEYS[6], index) or '', '%d+') do
        if member ~= index then
          redis.call('SETRANGE', KEYS[2], member, 'g')
          redis.call('HSET', KEYS[3], member, '|0|' .. mine.started .. '|' .. mine.started .. '|0|' .. mine.worker)
        end
      end
    elseif to ~= 'r' and to ~= 'p' then
      counts[to] = (counts[to] or 0) + 1
      if sealed ~= '' then
        redis.call('HINCRBY', KEYS[1], 'stored', #sealed - redis.call('HSTRLEN', KEYS[5], index))
        redis.call('HSET', KEYS[5], index, sealed)
      end
    end
  end
  answer[#answer + 1] = verdict
end
if not restored then
  return answer
end
local now = now_ms()
if m[4] == 'queued' then
  redis.call('HSET', KEYS[1], 'status', 'running', 'started', ms(now))
end
redis.call('PEXPIREAT', KEYS[3], m[1])
redis.call('PEXPIREAT', KEYS[5], m[1])
for to, n in pairs(counts) do
  left = move(KEYS[1], 'r', to, n)
end
if left == 0 then
  answer[1] = settle(KEYS, ARGV[1], ARGV[2], now)
end
return answer
