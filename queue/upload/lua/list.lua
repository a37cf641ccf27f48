-- list adds a batch to its owner's list.
-- KEYS: the owner's list (zset: batch id, time of creation in microseconds)
-- ARGV: batch id, time of creation in microseconds or '' for now, time to live of the list in ms, '1' to
--       keep an existing entry as it is
-- returns: 1
list(KEYS[1], ARGV[1], tonumber(ARGV[2]) or now_us(), tonumber(ARGV[3]), ARGV[4] == '1')
return 1
