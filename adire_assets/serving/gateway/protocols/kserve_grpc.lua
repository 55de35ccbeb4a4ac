-- KServe's gRPC: the model and the release stand in the message.
-- Whatever a Triton might not read or survive is refused.
-- A Triton calls a body that it cannot parse its own fault (INTERNAL, 500), which would take a
-- sound slot out, and some parameters end its process. So nothing reaches a slot but the part of
-- its interface that the models here need, and that in a form that every parser accepts.

local MORE = "[\128-\255]" -- a byte of a varint that another follows
local TOO_LONG, TOO_LARGE = string.rep(MORE, 10), string.rep(MORE, 9) .. "[^%z\1]"
local NO_SIZE = string.rep(MORE, 8) -- 2^56 and above, and whatever is negative

local CONTENTS = {
  "varints", "varints", "varints", "varints", "varints", "fixed32", "fixed64", "bytes",
}
local PARAMETERS = "parameters"
local INPUT = {"text", "text", "sizes", PARAMETERS, CONTENTS}
local OUTPUT = {"text", PARAMETERS}
local NAMED = {"text", "text"}
local SERVICE = "/inference.GRPCInferenceService/"
local HEALTH = "/grpc.health.v1.Health/Check"
local STREAM = SERVICE .. "ModelStreamInfer"
local REQUEST = {"text", "text", "text", PARAMETERS, INPUT, OUTPUT, "bytes"}
local METHODS = {
  [SERVICE .. "ModelInfer"] = REQUEST,
  [STREAM] = REQUEST,
  [SERVICE .. "ModelReady"] = NAMED,
  [SERVICE .. "ModelMetadata"] = NAMED,
  [SERVICE .. "ModelConfig"] = NAMED,
  [SERVICE .. "ServerLive"] = {},
  [SERVICE .. "ServerReady"] = {},
  [SERVICE .. "ServerMetadata"] = {},
  [HEALTH] = {"text"},
}
local WIDTHS = {fixed32 = 4, fixed64 = 8}

local function varint_end(bytes, at)
  local last = find(bytes, "[%z\1-\127]", at)
  return last or reject("a number is cut off")
end

local function length_at(bytes, at)
  local value, scale = 0, 1
  for position = at, at + 3 do
    local digit = byte(bytes, position)
    if not digit then
      break
    end
    value = value + digit % 128 * scale
    if digit < 128 then
      return value, position + 1
    end
    scale = scale * 128
  end
  reject("a length is cut off or too large")
end

local function require_varints(bytes, kind)
  if bytes ~= "" and byte(bytes, -1) > 127 then
    reject("a number is cut off")
  end
  if find(bytes, kind == "sizes" and NO_SIZE or TOO_LONG) or find(bytes, TOO_LARGE) then
    reject(kind == "sizes" and "a shape has a negative or a huge dimension" or "a number is too long")
  end
end

-- One message between two positions: its texts by field number.
local function read_message(bytes, at, past, fields)
  local found, count = {}, 0
  while at < past do
    local tag = byte(bytes, at)
    local kind, wire = fields[math.floor(tag / 8)], tag % 8
    count = count + 1
    if not kind then
      reject("it has a field that this method does not")
    elseif kind == PARAMETERS then
      reject("parameters are not taken here")
    elseif count > MOST_FIELDS then
      reject("it has too many fields")
    elseif wire == 2 then
      local length, from = length_at(bytes, at + 1)
      at = from + length
      if at > past then
        reject("a field is longer than what holds it")
      elseif type(kind) == "table" then
        read_message(bytes, from, at, kind)
      elseif kind == "text" then
        local number = math.floor(tag / 8)
        if found[number] or length > LONGEST_TEXT then
          reject(found[number] and "a text is there twice" or "a text is too long")
        end
        found[number] = sub(bytes, from, at - 1)
        require_utf8(found[number])
      elseif WIDTHS[kind] and length % WIDTHS[kind] ~= 0 then
        reject("a list of numbers is cut off")
      elseif kind == "varints" or kind == "sizes" then
        require_varints(sub(bytes, from, at - 1), kind)
      end
    elseif wire == 0 and (kind == "varints" or kind == "sizes") then
      local last = varint_end(bytes, at + 1)
      require_varints(sub(bytes, at + 1, last), kind)
      at = last + 1
    elseif (wire == 5 and kind == "fixed32") or (wire == 1 and kind == "fixed64") then
      at = at + 1 + WIDTHS[kind]
    else
      reject("a field has another type")
    end
    if at > past then
      reject("a field is longer than what holds it")
    end
  end
  return found
end

-- The body of a gRPC request, which is one message behind its length: {model or service, version}.
local function read_grpc(body, fields)
  local length = #body - 5
  if length < 0 or length ~= ((byte(body, 2) * 256 + byte(body, 3)) * 256 + byte(body, 4)) * 256
    + byte(body, 5) then
    reject("its body is not one whole message")
  elseif byte(body, 1) ~= 0 then
    reject("compressed messages are not taken here")
  end
  return read_message(body, 6, #body + 1, fields)
end

local function about_grpc(headers, path, body)
  local fields = METHODS[path]
  if headers:get(":method") ~= "POST" then
    refuse("12", "404", "the gateway does not serve this method")
  end
  local found = read_grpc(body, fields)
  if path == STREAM then
    headers:add("triton_grpc_error", "true") -- else what fails in a stream has the status OK
  end
  if path == HEALTH or not fields[1] then
    return SERVER
  elseif (found[1] or "") == "" then
    refuse("3", "400", "the request names no model")
  end
  return found[1], found[2]
end

PROTOCOLS[#PROTOCOLS + 1] = {
  is_grpc = true,
  takes = function(path) return METHODS[path] ~= nil end,
  about = about_grpc,
}
