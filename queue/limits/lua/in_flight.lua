-- in_flight returns how many actions of a grant are in flight; see reserve_quota.lua.
-- KEYS: meta, state, marker of the upload or the retry of the grant
-- ARGV: token of the grant, '' for that of the submission
-- returns: {'reserved', 0} if the upload or retry is under way | {'gone', 0} if it was dropped, or its round has
--          ended | {'pending', n} if n actions have not ended | {'ended', n} if n of those handed out have
local m = redis.call('HMGET', KEYS[1], 'pending', 'grant', 'throttle', 'ending', 'groups', 'asked', 'total', 'handed')
if not m[1] or (m[2] or '') ~= ARGV[1] then
  return {redis.call('EXISTS', KEYS[3]) == 1 and 'reserved' or 'gone', 0}
end
local pending = tonumber(m[1])
if pending == 0 then
  return {'gone', 0}
end
if not m[3] or m[4] then
  return {'pending', pending} -- all actions were handed out, or no more will be
end
if not m[5] then
  return {'ended', tonumber(m[6] or m[7]) - pending}
end
local handed = tonumber(m[8] or '0')
if handed == 0 then
  return {'ended', 0}
end
-- A group ends as a whole, including its members that were not handed out.
local _, waiting = string.gsub(redis.call('GETRANGE', KEYS[2], 0, handed - 1), '[prwg]', '')
return {'ended', handed - waiting}
