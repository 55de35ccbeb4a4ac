-- The model and the release that a chat names: {"model": "cloth"} or {"model": "cloth@2"}.
PROTOCOLS[#PROTOCOLS + 1] = {
  is_grpc = false,
  takes = function(path) return path == "/v1/chat/completions" end,
  about = function(headers, path, body)
    if headers:get(":method") ~= "POST" then
      refuse("3", "405", "this path has another method")
    end
    local request = read_json(body)
    local model = type(request) == "table" and request.members and request.members.model
    if type(model) ~= "string" then
      reject("it names no model")
    end
    local name, release = match(model, "^([^@]*)@?(.*)$")
    return name, release
  end,
}
