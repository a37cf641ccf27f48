-- finish_group ends all members of a group in one step. The first write wins.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, index of the first member, token, then index, state and sealed result of
--       each member, beginning with the first member; an empty result stands for the result that
--       save_group stored
-- returns: {verdict, number of the webhook's delivery if this ended the batch, or '0'}
--          verdict: 'ok' | 'stale' | 'gone' | 'forgotten': a result that save_group stored is missing
-- Repeating the write that won returns 'ok' and changes nothing.
local gone = redis.call('HGET', KEYS[1], 'gone')
if not gone then
  return {'gone', '0'}
end
local leader = ARGV[3]
local e = read_entry(KEYS[3], leader)
if not e or e.token ~= ARGV[4] then
  return {'stale', '0'}
end
local state = redis.call('GETRANGE', KEYS[2], leader, leader)
if state ~= 'r' then
  return {state == ARGV[6] and 'ok' or 'stale', '0'}
end
for i = 5, #ARGV, 3 do
  if ARGV[i + 2] == '' and redis.call('HEXISTS', KEYS[5], ARGV[i]) == 0 then
    return {'forgotten', '0'}
  end
end
for i = 5, #ARGV, 3 do
  redis.call('SETRANGE', KEYS[2], ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] ~= '' then
    redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 2])
    redis.call('HINCRBY', KEYS[1], 'stored', #ARGV[i + 2])
  end
  move(KEYS[1], 'r', ARGV[i + 1], 1)
end
redis.call('PEXPIREAT', KEYS[5], gone)
redis.call('HDEL', KEYS[6], leader)
return {'ok', settle(KEYS, ARGV[1], ARGV[2], now_ms())}
