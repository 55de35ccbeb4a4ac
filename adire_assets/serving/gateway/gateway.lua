-- Which model, and which release of it, a request is about. What cannot be read is refused here, and
-- no header passes that a slot could act upon: with grpc-timeout a client decides that it fails.
--
-- The script of a protocol, which comes before this, adds to PROTOCOLS {is_grpc, takes, about}:
-- takes(path) says whether a path is the protocol's; about(headers, path, body) returns the model (or
-- SERVER, or nil for what the routes refuse) and the release that a request names, or refuses it.
-- To PASSING it adds the headers that it needs.

local function answer(handle, is_grpc, why)
  if is_grpc then
    handle:respond({
      [":status"] = "200",
      ["content-type"] = "application/grpc",
      ["grpc-status"] = why.grpc,
      ["grpc-message"] = why.sentence,
    }, "")
  else
    handle:respond({[":status"] = why.http}, why.sentence)
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

-- The protocol of a path, nil where none takes it.
local function protocol_of(path, is_grpc, coding)
  for _, protocol in ipairs(PROTOCOLS) do
    if protocol.takes(path) and protocol.is_grpc == is_grpc then
      if not is_grpc and coding and coding ~= "identity" then
        refuse("3", "415", "compressed requests are not taken here")
      end
      return protocol
    elseif protocol.takes(path) and not is_grpc then
      refuse("3", "415", "this path is for gRPC")
    end
  end
  if is_grpc then
    refuse("12", "404", "the gateway does not serve this method")
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = match(headers:get(":path") or "", "^[^?]*")
  local is_grpc = sub(headers:get("content-type") or "", 1, 16) == "application/grpc"
  local coding = headers:get("content-encoding")
  keep_passing(headers)
  local good, protocol = pcall(protocol_of, path, is_grpc, coding)
  if not good then
    return answer(handle, is_grpc, protocol)
  end
  local model, release
  if protocol then
    local body = handle:body()
    body = body and body:getBytes(0, body:length()) or ""
    headers = handle:headers() -- those from before the body came are no longer valid
    good, model, release = pcall(protocol.about, headers, path, body)
    if not good then
      local unread = {grpc = "3", http = "400", sentence = "the request cannot be read"}
      return answer(handle, is_grpc, type(model) == "table" and model or unread)
    end
  end
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
