local function now_us()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- ms writes a number without an exponent.
local function ms(n)
  return string.format('%.0f', n)
end
