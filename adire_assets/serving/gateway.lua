-- Which model, and which release of it, a request is about; answers for routes that refuse.
-- The field extraction has left (gRPC) what the first message names; HTTP has it in the path.

local EXTRACTED = "envoy.filters.http.grpc_field_extraction"

local function first(fields, ...)
  for _, name in ipairs({...}) do
    local values = fields and fields[name]
    if values and values[1] and values[1] ~= "" then
      return values[1]
    end
  end
end

local function refuse(handle, is_grpc, grpc_status, http_status, sentence)
  if is_grpc then
    handle:respond({
      [":status"] = "200",
      ["content-type"] = "application/grpc",
      ["grpc-status"] = grpc_status,
      ["grpc-message"] = sentence,
    }, "")
  else
    handle:respond({
      [":status"] = http_status,
      ["content-type"] = "application/json",
    }, '{"error":"' .. sentence .. '"}')
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path") or ""
  local is_grpc = string.sub(headers:get("content-type") or "", 1, 16) == "application/grpc"
  headers:remove("x-adire-model")
  local model, release
  if is_grpc then
    local fields = handle:streamInfo():dynamicMetadata():get(EXTRACTED)
    model = first(fields, "model_name", "name")
    release = first(fields, "model_version", "version")
  else
    model = string.match(path, "^/v2/models/([^/?]+)")
    release = string.match(path, "^/v2/models/[^/?]+/versions/([^/?]+)")
  end
  if model and string.match(model, "^[a-z][a-z0-9_]*$") then
    headers:add("x-adire-model", model)
  end
  if release then
    headers:replace("x-model-release", string.match(release, "^[0-9]+$") or "none")
  end
  handle:clearRouteCache()
  local words = handle:metadata()
  local sentence, grpc_status, http_status = words:get("refusal"), words:get("grpc"), words:get("http")
  if sentence then
    if is_grpc and not model and grpc_status == "5" then
      sentence, grpc_status = "the request cannot be read, or names no model", "3"
    end
    refuse(handle, is_grpc, grpc_status, http_status, sentence)
  end
end

function envoy_on_response(handle)
  -- Envoy has no gRPC status for a body that is too large; gRPC has.
  local headers = handle:headers()
  if headers:get("grpc-status") == "2" and headers:get("grpc-message") == "Payload Too Large" then
    headers:replace("grpc-status", "8")
  end
end
