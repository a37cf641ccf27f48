-- disown clears the holder of actions that a worker holds by the ledger but does not run, so that
-- any worker may decide about them.
-- KEYS: meta, state, ledger, actions, results, groups
-- ARGV: worker, then index and token of each action
-- returns: {target, lane, then for each action 1 if the worker held it, else 0}
-- Repeating it changes nothing, and returns 1 for an action until another worker has released or
-- finished the action.
local m = redis.call('HMGET', KEYS[1], 'target', 'lane')
local answer = {m[1] or '', m[2] or ''}
for i = 2, #ARGV, 2 do
  local index, token = ARGV[i], ARGV[i + 1]
  local e = read_entry(KEYS[3], index)
  local held = e and e.token == token and (e.worker == ARGV[1] or e.worker == '')
    and redis.call('GETRANGE', KEYS[2], index, index) == 'r'
  if held and e.worker ~= '' then
    e.worker = ''
    write_entry(KEYS[3], index, e)
  end
  answer[#answer + 1] = held and 1 or 0
end
return answer
