-- Reads the JSON of an HTTP inference, and refuses what gateway_messages.lua says.
-- A value is: true or false, a string (its escapes as they came), a number for an integer,
-- {fraction = number}, {list = {...}}, {members = {...}}, or NULL.

local LARGEST_JSON = 64 * 1024 -- bytes; tensors behind it are not counted
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

local function is_text(value)
  return type(value) == "string" and #value <= LONGEST_TEXT
end

local function is_flag(value)
  return type(value) == "boolean"
end

local function is_integer(value)
  return type(value) == "number"
end

local function is_natural(value)
  return type(value) == "number" and value >= 0
end

local function is_real(value)
  return type(value) == "number" or (type(value) == "table" and value.fraction ~= nil)
end

local ELEMENTS = {
  BOOL = is_flag, BYTES = function(value) return type(value) == "string" end,
  UINT8 = is_natural, UINT16 = is_natural, UINT32 = is_natural, UINT64 = is_natural,
  INT8 = is_integer, INT16 = is_integer, INT32 = is_integer, INT64 = is_integer,
  FP32 = is_real, FP64 = is_real, FP16 = false, BF16 = false, -- these not as JSON
}

-- The members of an object, each of which must be as its function here says.
local function members_of(value, allowed, what)
  local members = type(value) == "table" and value.members or reject(what .. " is no object")
  for name, member in pairs(members) do
    local good = allowed[name]
    if good == nil then
      reject(what .. " has a member that is not taken here")
    elseif good and not good(member) then
      reject(what .. " has a member of a wrong type")
    end
  end
  return members
end

local function list_of(value, what)
  local list = type(value) == "table" and value.list or reject(what .. " is no list")
  if #list > MOST_FIELDS then
    reject(what .. " is too long")
  end
  return list
end

-- How many elements a list has, whose lists may be nested.
local function count_elements(value, good)
  local list, count = value.list, 0
  for _, element in ipairs(list) do
    if type(element) == "table" and element.list then
      count = count + count_elements(element, good)
    elseif good(element) then
      count = count + 1
    else
      reject("data does not fit its datatype")
    end
  end
  return count
end

local function check_input(value)
  local input = members_of(
    value,
    {name = is_text, datatype = is_text, shape = false, data = false, parameters = false},
    "an input"
  )
  local good, count = ELEMENTS[input.datatype or ""], 1
  if input.name == nil or good == nil or input.shape == nil then
    reject("an input lacks its name, its datatype or its shape")
  end
  for _, size in ipairs(list_of(input.shape, "a shape")) do
    if not is_natural(size) then
      reject("a shape has a dimension that is no size")
    end
    count = count * size
  end
  local binary = members_of(
    input.parameters == nil and {members = {}} or input.parameters,
    {binary_data_size = is_natural},
    "an input's parameters"
  ).binary_data_size
  if (binary == nil) == (input.data == nil) then
    reject("an input has no data, or data twice")
  elseif binary == nil then
    if not (good and type(input.data) == "table" and input.data.list) then
      reject("data does not fit its datatype")
    -- A Triton makes room for the whole shape before it counts.
    elseif count_elements(input.data, good) ~= count then
      reject("data does not fit its shape")
    end
  end
  return binary or 0
end

local function check_output(value)
  local output = members_of(value, {name = is_text, parameters = false}, "an output")
  if output.name == nil then
    reject("an output lacks its name")
  end
  if output.parameters ~= nil then
    members_of(output.parameters, {binary_data = is_flag}, "an output's parameters")
  end
end

-- The body of an HTTP inference; `header` says how much of it is JSON, the rest are tensors.
local function read_json(body, header)
  local length = #body
  if header then
    length = match(header, "^%d+$") and #header < 10 and tonumber(header)
  end
  if not length or length == 0 or length > #body then
    reject("inference-header-content-length is not the length of its JSON")
  elseif length > LARGEST_JSON then
    reject("its JSON is too long")
  end
  local text = sub(body, 1, length)
  require_utf8(text)
  local value, past = read_value(text, 1, 0)
  if past <= length then
    reject("something comes after its JSON")
  end
  local request = members_of(
    value, {id = is_text, inputs = false, outputs = false, parameters = false}, "the request"
  )
  if request.parameters ~= nil then
    members_of(request.parameters, {binary_data_output = is_flag}, "the request's parameters")
  end
  local behind = 0
  for _, input in ipairs(list_of(request.inputs, "inputs")) do
    behind = behind + check_input(input)
  end
  if behind ~= #body - length then
    reject("the tensors behind its JSON are not as long as it says")
  end
  if request.outputs ~= nil then
    for _, output in ipairs(list_of(request.outputs, "outputs")) do
      check_output(output)
    end
  end
end
