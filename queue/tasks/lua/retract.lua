-- retract removes the waiting actions of a batch that was cancelled or deleted, or has expired.
-- KEYS: m, o, p, n, o:<owner>, b:<flow>, s:<owner>, g and v of the fair queue (see fair.lua)
-- ARGV: prefix of the fair queue, batch id, round or '' for the first
-- returns: 1 if actions waited, else 0
-- Repeating it changes nothing. Without it the actions get tasks that end at once.
local round, _, owner = read_flow(ARGV[1], ARGV[2])
if round ~= ARGV[3] then
  return 0
end
remove_flow(ARGV[1], ARGV[2], owner)
return 1
