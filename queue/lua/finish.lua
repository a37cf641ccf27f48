-- finish records the result of an action that was begun. The first write wins.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: batch id, channel, index, token, state, sealed result
-- returns: {'ok' | 'stale' | 'gone', '1' if this ended the batch and a webhook is to be sent}
-- Repeating the write that won answers 'ok' and changes nothing.
local gone = redis.call('HGET', KEYS[1], 'gone')
if not gone then
  return {'gone', '0'}
end
local index, token, to = ARGV[3], ARGV[4], ARGV[5]
local e = read_entry(KEYS[3], index)
if not e or e.token ~= token then
  return {'stale', '0'}
end
local state = redis.call('GETRANGE', KEYS[2], index, index)
if state ~= 'r' then
  return {state == to and 'ok' or 'stale', '0'}
end
redis.call('SETRANGE', KEYS[2], index, to)
redis.call('HSET', KEYS[5], index, ARGV[6])
if redis.call('HLEN', KEYS[5]) == 1 then
  redis.call('PEXPIREAT', KEYS[5], gone)
end
move(KEYS[1], 'r', to, 1)
return {'ok', settle(KEYS, ARGV[1], ARGV[2], now_ms())}
