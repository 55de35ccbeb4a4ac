-- OpenAI's interface: the model stands in the body, as "letters", or a release as "letters@2".
-- That the body is sound JSON is known here; what its members mean, the engine's own door checks.

local ASKED = {["/v1/chat/completions"] = "POST", ["/v1/completions"] = "POST", ["/v1/models"] = "GET"}

local function about_openai(headers, path, body)
  if headers:get(":method") ~= ASKED[path] then
    refuse("3", "405", "this path has another method")
  elseif ASKED[path] == "GET" then
    if body ~= "" then
      reject("this path takes no body")
    end
    return SERVER
  end
  local request = read_json(body, #body)
  local model = type(request) == "table" and request.members and request.members.model
  if type(model) ~= "string" or model == "" then
    reject("it names no model")
  end
  local name, at, release = match(model, "^([^@]*)(@?)(.*)$")
  if at ~= "" and release == "" then
    reject("it names no release behind @")
  end
  return name, release
end

PROTOCOLS[#PROTOCOLS + 1] = {
  is_grpc = false,
  takes = function(path) return ASKED[path] ~= nil end,
  about = about_openai,
}
