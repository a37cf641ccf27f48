-- in_hand adds tasks to a worker's answer to the question which tasks it has in hand.
-- KEYS: answer (set)
-- ARGV: ms until the answer expires, then tasks
-- returns: 1
-- Repeating the step changes nothing but the end of the answer.
for i = 2, #ARGV do
  redis.call('SADD', KEYS[1], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
