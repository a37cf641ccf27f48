-- GRACE is how many milliseconds the keys of a batch that has not ended outlive its deadline and
-- retention, since actions that run at the deadline may run on.
local GRACE = 8 * 3600 * 1000
