-- Runs before the statistics: what the gateway refuses because it is full is not the release's
-- failure, which UNAVAILABLE would be.
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("x-envoy-overloaded") and headers:get("grpc-status") == "14" then
    headers:replace("grpc-status", "8")
  end
end
