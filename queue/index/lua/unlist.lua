-- unlist removes batches from a list, except those that were entered again since shortly before the
-- sweeper looked at them.
-- KEYS: list, entries that were entered again (zset by time)
-- ARGV: time in ms that is not later than the looks, hold ms, then batch ids
-- returns: the number of batches removed
-- Repeating it changes nothing.
local before = tonumber(ARGV[1]) - tonumber(ARGV[2])
local removed = 0
for i = 3, #ARGV do
  local again = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if not again or tonumber(again) < before then
    removed = removed + redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
  end
end
return removed
