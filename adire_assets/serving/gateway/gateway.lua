-- Which model, and which release of it, a request is about; answers for routes that refuse.
-- gRPC names the model in its message, HTTP in its path. What cannot be read is refused here, and
-- no header passes that a slot could act upon: with grpc-timeout a client decides that it fails.

local PASSING = {
  [":method"] = true, [":path"] = true, [":authority"] = true, [":scheme"] = true,
  ["content-type"] = true, ["content-length"] = true, ["transfer-encoding"] = true,
  ["x-forwarded-proto"] = true, -- without it, Envoy finds no route
  ["te"] = true, ["accept"] = true, ["user-agent"] = true, ["x-request-id"] = true,
  ["inference-header-content-length"] = true, ["x-model-release"] = true,
  [STICKY_HEADER] = true,
}

local SERVER_PATHS = {["/v2"] = "GET", ["/v2/health/live"] = "GET", ["/v2/health/ready"] = "GET"}
local MODEL_PATHS = {[""] = "GET", ["/infer"] = "POST", ["/ready"] = "GET", ["/config"] = "GET"}
local SERVER = "-" -- instead of a model: the request is about a server
local BINARY_HEADER = "inference-header-content-length"

local function refuse(handle, is_grpc, grpc_status, http_status, sentence)
  if is_grpc then
    handle:respond({
      [":status"] = "200",
      ["content-type"] = "application/grpc",
      ["grpc-status"] = grpc_status,
      ["grpc-message"] = sentence,
    }, "")
  else
    handle:respond({[":status"] = http_status}, sentence)
  end
end

local function keep_passing(headers)
  local others = {}
  for name in pairs(headers) do
    if not PASSING[name] then
      others[#others + 1] = name
    end
  end
  for _, name in ipairs(others) do
    headers:remove(name)
  end
end

local function body_of(handle)
  local body = handle:body()
  return body and body:getBytes(0, body:length()) or ""
end

-- The model and the release that a gRPC request names, or why it is refused.
local function about_grpc(handle, headers, path)
  local fields = METHODS[path]
  if not fields or headers:get(":method") ~= "POST" then
    return nil, nil, {"12", "404", "the gateway does not serve this method"}
  end
  local found, why = attempt(read_grpc, body_of(handle), fields)
  if not found then
    return nil, nil, {"3", "400", "the request cannot be taken: " .. why}
  end
  if METHODS[path] == METHODS[HEALTH] or not fields[1] then
    return SERVER
  elseif (found[1] or "") == "" then
    return nil, nil, {"3", "400", "the request names no model"}
  end
  return found[1], found[2]
end

-- The same for an HTTP request.
local function about_http(handle, headers, path, coding)
  if METHODS[path] then
    return nil, nil, {"3", "415", "this path is for gRPC"}
  end
  local wanted = SERVER_PATHS[path]
  local model, rest = match(path, "^/v2/models/([^/]+)(.*)$")
  local release
  if model then
    local version, after = match(rest, "^/versions/([^/]+)(.*)$")
    release, wanted = version, MODEL_PATHS[after or rest]
  end
  if not wanted then
    return nil -- the routes have an answer to that
  elseif headers:get(":method") ~= wanted then
    return nil, nil, {"3", "405", "this path has another method"}
  elseif coding and coding ~= "identity" then
    return nil, nil, {"3", "415", "compressed requests are not taken here"}
  end
  local why
  if wanted == "POST" then
    local header = headers:get(BINARY_HEADER)
    if headers:getNumValues(BINARY_HEADER) > 1 then
      header = ""
    end
    local _
    _, why = attempt(read_json, body_of(handle), header)
  elseif body_of(handle) ~= "" then
    why = "this path takes no body"
  end
  if why then
    return nil, nil, {"3", "400", "the request cannot be taken: " .. why}
  end
  return model or SERVER, release
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = match(headers:get(":path") or "", "^[^?]*")
  local is_grpc = sub(headers:get("content-type") or "", 1, 16) == "application/grpc"
  local coding = headers:get("content-encoding")
  keep_passing(headers)
  local about = is_grpc and about_grpc or about_http
  local model, release, refusal = about(handle, headers, path, coding)
  if refusal then
    return refuse(handle, is_grpc, unpack(refusal))
  end
  headers = handle:headers() -- those from before the body came are no longer valid
  if is_grpc then
    headers:replace("te", "trailers")
  end
  -- A slot is asked for what was looked at, not for a query behind it.
  headers:replace(":path", path)
  -- Routes to a slot match this header, which only this line sets: nothing unread gets there.
  if model and (model == SERVER or match(model, "^[a-z][a-z0-9_]*$")) then
    headers:add("x-adire-model", model)
  end
  if release and release ~= "" then
    headers:replace("x-model-release", match(release, "^[0-9]+$") or "none")
  end
  handle:clearRouteCache()
end
