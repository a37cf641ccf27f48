-- GRACE is how much longer than deadline and retention the keys of a batch that
-- has not ended live: what is in flight at the deadline may take its time.
local GRACE = 8 * 3600 * 1000
