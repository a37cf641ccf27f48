-- retract takes back an offer of actions: their batch was cancelled, has expired or was deleted.
-- KEYS: m, o, p, n, o:<owner>, b:<flow>, s:<owner>, g and v of the fair queue (see lua/fair.lua)
-- ARGV: prefix of the fair queue, batch id, round or '' for the first
-- returns: 1 if actions waited, else 0
-- If this is lost, the actions get tasks, which end when they are begun.
local round, _, owner = read_flow(ARGV[1], ARGV[2])
if round ~= ARGV[3] then
  return 0
end
remove_flow(ARGV[1], ARGV[2], owner)
return 1
