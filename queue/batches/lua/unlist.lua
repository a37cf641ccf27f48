-- unlist removes batches from a list, except those that were entered again shortly
-- before they were looked at, or since.
-- KEYS: list, entries that were made again (zset by time)
-- ARGV: time ms at or before which the batches were looked at, hold ms, then batch ids
-- returns: the number of batches removed
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
