-- look_up reports whether a batch exists, and whether its upload is open.
-- KEYS: meta, marker
-- ARGV: none
-- returns: {1 or 0, 1 or 0}
return {redis.call('EXISTS', KEYS[1]), redis.call('EXISTS', KEYS[2])}
