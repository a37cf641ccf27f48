-- correct writes what a look at batches found into their account.
-- KEYS: entries, looks, sums (account.lua)
-- ARGV: for each batch: its id, the time of its look that due returned, what was found ('gone', 'staged', 'open' or
--       'ended'), stored bytes, ms at which its keys expire, most ms until the next look
-- returns: {number of batches that no longer count as open, or no longer at all, number of batches that remain}
-- What was found does not count if the batch was charged since then. A reservation whose look is not due stays:
-- the upload may be about to commit, the retry about to make the batch open again, or a worker about to give the
-- open batch the room that it has reserved.
local now, freed = now_ms(), 0
for i = 1, #ARGV, 6 do
  local id, seen, found = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local look = redis.call('ZSCORE', KEYS[2], id)
  local state, bytes, uploaded = read_held(redis.call('HGET', KEYS[1], id))
  if state and look and tonumber(look) == seen then
    local after = now + tonumber(ARGV[i + 5])
    if found == 'gone' then
      if state ~= 'r' or seen <= now then
        put(KEYS, id)
        freed = freed + 1
      end
    elseif found == 'staged' then
      put(KEYS, id, state, bytes, uploaded, math.max(after, seen + 1))
    elseif found == 'open' then
      local held = tonumber(ARGV[i + 3])
      if seen > now then
        held = math.max(held, bytes)
      end
      put(KEYS, id, 'o', held, uploaded, math.max(after, seen + 1))
    elseif state ~= 't' or seen <= now then
      freed = freed + counts_open(state)
      put(KEYS, id, 'e', tonumber(ARGV[i + 3]), uploaded, math.max(math.min(after, tonumber(ARGV[i + 4]) + 1000), now + 1000))
    end
  end
end
return {freed, redis.call('HLEN', KEYS[1])}
