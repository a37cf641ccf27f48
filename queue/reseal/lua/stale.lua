-- stale returns the sealed values of a key that the first key of the ring did not seal.
-- KEYS: key of a batch, or another one with sealed values
-- ARGV: kind of the key: of a batch the last letter of its name, a, g, m, r or w; otherwise 'string', or 'hash:' and
--       the beginning of the fields with sealed values; cursor of HSCAN; how many fields HSCAN looks at; the bytes
--       with which a value begins that the first key sealed
-- returns: {next cursor, '0' at the end, number of sealed values seen, then field and whole value of each in turn}
-- The field of a list is the position, and that of a string is ''. It changes nothing.
local kind, cursor, answer, seen = ARGV[1], '0', {}, 0
local fields = string.match(kind, '^hash:(.*)$') or ''
local function look(field, value)
  local sealed = value
  if string.sub(field, 1, #fields) ~= fields then
    return
  end
  if kind == 'g' and string.sub(field, 1, 1) == 'o' then
    if string.sub(value, 1, 1) == 'O' then
      return -- an overdue action, which has no result
    end
    sealed = string.sub(value, 2)
  elseif kind == 'g' then
    sealed = string.match(value, '^[%d,]+|%d+|(.*)$') or value
  end
  seen = seen + 1
  if string.sub(sealed, 1, #ARGV[4]) ~= ARGV[4] then
    answer[#answer + 1] = field
    answer[#answer + 1] = value
  end
end
if kind == 'w' then
  for position, value in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    look(string.format('%d', position - 1), value)
  end
elseif kind == 'string' then
  local value = redis.call('GET', KEYS[1])
  if value then
    look('', value)
  end
elseif kind == 'm' then
  for _, field in ipairs({'head', 'private'}) do
    local value = redis.call('HGET', KEYS[1], field)
    if value then
      look(field, value)
    end
  end
else
  local page = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
  cursor = page[1]
  for i = 1, #page[2], 2 do
    look(page[2][i], page[2][i + 1])
  end
end
table.insert(answer, 1, string.format('%d', seen))
table.insert(answer, 1, cursor)
return answer
