-- KServe's HTTP: the model and the release stand in the path, tensors as JSON or behind it.
-- Whatever a Triton might not read or survive is refused, see kserve_grpc.lua.

local SERVER_PATHS = {["/v2"] = "GET", ["/v2/health/live"] = "GET", ["/v2/health/ready"] = "GET"}
local MODEL_PATHS = {[""] = "GET", ["/infer"] = "POST", ["/ready"] = "GET", ["/config"] = "GET"}
local BINARY_HEADER = "inference-header-content-length"
PASSING[BINARY_HEADER] = true

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
local function read_inference(body, header)
  local length = #body
  if header then
    length = match(header, "^%d+$") and #header < 10 and tonumber(header)
  end
  if not length or length == 0 or length > #body then
    reject("inference-header-content-length is not the length of its JSON")
  end
  local request = members_of(
    read_json(sub(body, 1, length)), {id = is_text, inputs = false, outputs = false, parameters = false}, "the request"
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

local function about_http(headers, path, body)
  local wanted = SERVER_PATHS[path]
  local model, rest = match(path, "^/v2/models/([^/]+)(.*)$")
  local release
  if model then
    local version, after = match(rest, "^/versions/([^/]+)(.*)$")
    release, wanted = version, MODEL_PATHS[after or rest]
  end
  if not wanted then
    return nil
  elseif headers:get(":method") ~= wanted then
    refuse("3", "405", "this path has another method")
  elseif wanted == "POST" then
    local length = headers:get(BINARY_HEADER)
    read_inference(body, headers:getNumValues(BINARY_HEADER) > 1 and "" or length)
  elseif body ~= "" then
    reject("this path takes no body")
  end
  return model or SERVER, release
end

PROTOCOLS[#PROTOCOLS + 1] = {
  is_grpc = false,
  takes = function(path) return SERVER_PATHS[path] ~= nil or sub(path, 1, 11) == "/v2/models/" end,
  about = about_http,
}
