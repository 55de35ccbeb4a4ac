-- What the scripts of all protocols read with: texts, and JSON.
-- Before them stands STICKY_HEADER; gateway.lua comes last and says what a script of a protocol adds.

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local LONGEST_TEXT = 1024 -- bytes of a name, an id, a version
local MOST_FIELDS = 1000 -- of one protobuf message, and elements of a list of inputs or sizes

-- These end the reading; everything else that is raised is a mistake of a script.
local function refuse(grpc_status, http_status, sentence)
  error({grpc = grpc_status, http = http_status, sentence = sentence}, 0)
end

local function reject(sentence)
  refuse("3", "400", "the request cannot be taken: " .. sentence)
end

local function require_utf8(text)
  local at = find(text, "[\128-\255]")
  while at do
    local past = match(text, "^[\194-\223][\128-\191]()", at)
      or match(text, "^\224[\160-\191][\128-\191]()", at)
      or match(text, "^[\225-\236\238\239][\128-\191][\128-\191]()", at)
      or match(text, "^\237[\128-\159][\128-\191]()", at)
      or match(text, "^\240[\144-\191][\128-\191][\128-\191]()", at)
      or match(text, "^[\241-\243][\128-\191][\128-\191][\128-\191]()", at)
      or match(text, "^\244[\128-\143][\128-\191][\128-\191]()", at)
    if not past then
      reject("a text is not UTF-8")
    end
    at = find(text, "[\128-\255]", past)
  end
end

local PROTOCOLS = {}
local SERVER = "-" -- instead of a model: the request is about a server
local PASSING = {
  [":method"] = true, [":path"] = true, [":authority"] = true, [":scheme"] = true,
  ["content-type"] = true, ["content-length"] = true, ["transfer-encoding"] = true,
  ["x-forwarded-proto"] = true, -- without it, Envoy finds no route
  ["te"] = true, ["accept"] = true, ["user-agent"] = true, ["x-request-id"] = true,
  ["x-model-release"] = true, [STICKY_HEADER] = true,
}

-- --- JSON --------------------------------------------------------------------------------------
-- A value is: true or false, a string (its escapes as they came), a number for an integer,
-- {fraction = number}, {list = {...}}, {members = {...}}, or NULL.

local LARGEST_JSON = 64 * 1024 -- bytes
local DEEPEST_JSON = 16
local MOST_DIGITS = 18 -- of an integer, so that it fits into 64 bits

local NULL = {}
local LITERALS = {["true"] = true, ["false"] = false, ["null"] = NULL}
local read_value

local function past_space(text, at)
  return match(text, "^[ \t\r\n]*()", at)
end

local function read_string(text, at)
  local from = at + 1
  at = from
  while true do
    at = find(text, '["\\%z\1-\31]', at) or reject("a text has no end")
    local sign = sub(text, at, at)
    if sign == '"' then
      return sub(text, from, at - 1), at + 1
    end
    local past = match(text, '^\\["\\/bfnrt]()', at)
      or match(text, "^\\u[dD][89abAB]%x%x\\u[dD][c-fC-F]%x%x()", at)
    if not past and not match(text, "^\\u[dD][89a-fA-F]", at) then
      past = match(text, "^\\u%x%x%x%x()", at)
    end
    at = past or reject("a text has a control character or a wrong escape")
  end
end

local function read_number(text, at)
  local whole, past = match(text, "^(%-?%d+)()", at)
  if not whole or match(whole, "^%-?0%d") then
    reject("there is something that is no JSON")
  end
  local rest = match(text, "^%.%d+", past) or ""
  rest = rest .. (match(text, "^[eE][+-]?%d+", past + #rest) or "")
  if rest == "" and whole ~= "-0" and #whole <= MOST_DIGITS then
    return tonumber(whole), past
  end
  local number = tonumber(whole .. rest)
  if not number or number - number ~= 0 then
    reject("a number is too large")
  end
  return {fraction = number}, past + #rest
end

local function read_list(text, at, depth)
  local list = {}
  at = past_space(text, at + 1)
  if sub(text, at, at) == "]" then
    return {list = list}, at + 1
  end
  while true do
    list[#list + 1], at = read_value(text, at, depth)
    local sign = sub(text, at, at)
    if sign == "]" then
      return {list = list}, at + 1
    elseif sign ~= "," then
      reject("a list has no end")
    end
    at = at + 1
  end
end

local function read_object(text, at, depth)
  local members = {}
  at = past_space(text, at + 1)
  if sub(text, at, at) == "}" then
    return {members = members}, at + 1
  end
  while true do
    at = past_space(text, at)
    if sub(text, at, at) ~= '"' then
      reject("an object has a member without a name")
    end
    local name
    name, at = read_string(text, at)
    at = past_space(text, at)
    if sub(text, at, at) ~= ":" or members[name] ~= nil then
      reject("an object has a member without a value, or twice")
    end
    members[name], at = read_value(text, at + 1, depth)
    local sign = sub(text, at, at)
    if sign == "}" then
      return {members = members}, at + 1
    elseif sign ~= "," then
      reject("an object has no end")
    end
    at = at + 1
  end
end

-- The value at a position, and the position of what comes after it and its space.
function read_value(text, at, depth)
  if depth > DEEPEST_JSON then
    reject("it is nested too deeply")
  end
  at = past_space(text, at)
  local sign, value = sub(text, at, at), nil
  if sign == "{" then
    value, at = read_object(text, at, depth + 1)
  elseif sign == "[" then
    value, at = read_list(text, at, depth + 1)
  elseif sign == '"' then
    value, at = read_string(text, at)
  else
    local word, past = match(text, "^(%a+)()", at)
    if word and LITERALS[word] ~= nil then
      value, at = LITERALS[word], past
    else
      value, at = read_number(text, at)
    end
  end
  return value, past_space(text, at)
end

-- The value that a text of JSON is; `largest`: how many bytes it may have.
local function read_json(text, largest)
  if #text > (largest or LARGEST_JSON) then
    reject("its JSON is too long")
  end
  require_utf8(text)
  local value, past = read_value(text, 1, 0)
  if past <= #text then
    reject("something comes after its JSON")
  end
  return value
end
