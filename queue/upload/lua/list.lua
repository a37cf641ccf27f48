-- list puts a batch into its owner's list.
-- KEYS: the owner's list (zset: batch id, time of creation in microseconds)
-- ARGV: batch id, time of creation in microseconds or '' for now, ms that the list lives, '1' to keep an
--       entry that is there as it is
-- returns: 1
list(KEYS[1], ARGV[1], tonumber(ARGV[2]) or now_us(), tonumber(ARGV[3]), ARGV[4] == '1')
return 1
