-- end forgets a session.
-- KEYS: the sessions of a group (hash: 'v' .. id → sealed record, 't' .. id → when it was used, in ms)
-- ARGV: id
-- returns: how many fields it removed
-- If the step is repeated, it changes nothing.
return redis.call('HDEL', KEYS[1], 'v' .. ARGV[1], 't' .. ARGV[1])
