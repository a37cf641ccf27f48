-- list adds a batch to its owner's list, or to that of all batches.
-- KEYS: the list (zset: batch id, in that of all batches with the owner, time of creation in microseconds)
-- ARGV: member, time of creation in microseconds or '' for now, time to live of the list in ms, '1' to
--       keep an existing entry as it is
-- returns: 1
list(KEYS[1], ARGV[1], tonumber(ARGV[2]) or now_us(), tonumber(ARGV[3]), ARGV[4] == '1')
return 1
