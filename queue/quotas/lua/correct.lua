-- correct writes what a look at batches found into their account.
-- KEYS: entries, looks, sums, spare bytes (account.lua)
-- ARGV: for each batch: its id, the time of its look that due or spare returned, what was found ('gone', 'staged',
--       'open', 'lowered' if lower ran, or 'ended'), stored bytes, bytes that it counts for, ms at which its keys
--       expire, most ms until the next look
-- returns: {number of batches that no longer count as open, or no longer at all, number of batches that remain}
-- What was found does not count if the batch was charged since then. A reservation whose look is not due stays:
-- the upload may be about to commit, the retry about to make the batch open again, or a worker about to give the
-- open batch the room that it has reserved. After lower, no worker can give a batch what it had reserved before.
local now, freed = now_ms(), 0
for i = 1, #ARGV, 7 do
  local id, seen, found, stored = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3])
  local look = redis.call('ZSCORE', KEYS[2], id)
  local state, bytes, uploaded = read_held(redis.call('HGET', KEYS[1], id))
  if state and look and tonumber(look) == seen then
    local after = now + tonumber(ARGV[i + 6])
    if found == 'gone' then
      if state ~= 'r' or seen <= now then
        put(KEYS, id)
        freed = freed + 1
      end
    elseif found == 'staged' then
      put(KEYS, id, state, bytes, uploaded, math.max(after, seen + 1), 0)
    elseif found == 'open' or found == 'lowered' then
      local held = tonumber(ARGV[i + 4])
      after = math.max(after, seen + 1)
      if found == 'open' and seen > now and bytes > held then
        held, after = bytes, seen -- else looks that follow each other would keep it forever
      end
      put(KEYS, id, 'o', held, uploaded, after, held - stored)
    elseif state ~= 't' or seen <= now then
      freed = freed + counts_open(state)
      put(KEYS, id, 'e', stored, uploaded, math.max(math.min(after, tonumber(ARGV[i + 5]) + 1000), now + 1000), 0)
    end
  end
end
return {freed, redis.call('HLEN', KEYS[1])}
