-- This library needs the functions of rdb/lua/time.lua.

-- settle ends the batch if none of its actions is pending: it writes the final status and the outbox
-- mark of the webhook, starts the retention, and publishes a message that wakes the requests that wait.
-- It returns the number of the webhook's delivery, or '0' if the batch has not ended or has no webhook.
-- The status is that of the last round: 'expired' if the deadline has passed and actions expired in this
-- round. Actions that a retry left expired (expired_before) do not count. A retry leaves either all or none
-- of them, and their number only grows within a round, so more of them means that actions expired in it.
-- Every delivery of a batch has a number of its own (sending); a later number withdraws the earlier ones.
-- keys: meta, state, ledger, actions, results, groups
local function settle(keys, message, channel, now)
  local m = redis.call('HMGET', keys[1], 'pending', 'ending', 'retention', 'webhook', 'expired', 'expired_before')
  if tonumber(m[1]) > 0 then
    return '0'
  end
  local status = m[2] or 'completed'
  if status == 'expired' and tonumber(m[5]) <= tonumber(m[6] or '0') then
    status = 'completed' -- the deadline passed, and no action was waiting
  end
  local gone = now + tonumber(m[3])
  redis.call('HSET', keys[1], 'status', status, 'ended', ms(now), 'gone', ms(gone))
  local delivery = '0'
  if m[4] then
    delivery = string.format('%d', redis.call('HINCRBY', keys[1], 'sending', 1))
    redis.call('HSET', keys[1], 'outbox', delivery, 'delivery', 'pending')
  else
    for _, key in ipairs(keys) do
      redis.call('PEXPIREAT', key, ms(gone))
    end
  end
  redis.call('PUBLISH', channel, message)
  return delivery
end
