-- An account has an entry for each batch that counts for it, and the sums of its entries, which every step changes
-- together. An entry is "state|stored bytes|uploaded bytes". Its state is 'r' if an upload or 't' if a retry has
-- reserved it and nothing more is known of the batch, 'o' if the batch was open, and 'e' if the batch had ended, when
-- it was last looked at.
-- The spare bytes of a batch are those of its entry that it may not need: what was reserved ahead, or at the last look
-- the room that it had not used. They only say where to look for bytes to reclaim.
-- keys: entries (hash, by batch), when each is looked at next (zset, ms), sums (hash), spare bytes (zset, by batch)

-- read_held returns the state, the stored bytes and the uploaded bytes of an entry.
local function read_held(packed)
  local state, bytes, uploaded = string.match(packed or '', '^(%a)|(%d+)|(%d+)$')
  return state, tonumber(bytes or '0'), tonumber(uploaded or '0')
end

local function counts_open(state)
  return (state == 'r' or state == 't' or state == 'o') and 1 or 0
end

-- put writes an entry, its spare bytes and the sums. Without a state it removes the entry. The keys of an account without entries
-- are removed, and those of an account that is forgotten expire after longer than any batch lives.
local function put(keys, id, state, bytes, uploaded, look, spare)
  local before, had = read_held(redis.call('HGET', keys[1], id))
  if not state then
    redis.call('HDEL', keys[1], id)
    redis.call('ZREM', keys[2], id)
    bytes, spare = 0, 0
  else
    redis.call('HSET', keys[1], id, state .. '|' .. ms(bytes) .. '|' .. ms(uploaded))
    redis.call('ZADD', keys[2], ms(look), id)
  end
  local spared = tonumber(redis.call('ZSCORE', keys[4], id) or '0')
  if spare > 0 then
    redis.call('ZADD', keys[4], ms(spare), id)
  elseif spared > 0 then
    redis.call('ZREM', keys[4], id)
  end
  if redis.call('EXISTS', keys[1]) == 0 then
    redis.call('DEL', keys[3])
    return
  end
  redis.call('HINCRBY', keys[3], 'open', counts_open(state) - counts_open(before))
  redis.call('HINCRBY', keys[3], 'bytes', ms(bytes - had))
  redis.call('HINCRBY', keys[3], 'spare', ms(math.max(spare, 0) - spared))
  for _, key in ipairs(keys) do
    redis.call('PEXPIRE', key, ms(86400000 * 800))
  end
end
