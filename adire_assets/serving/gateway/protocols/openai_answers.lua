-- What an answer of OpenAI's interface shows on its way through, see `answers` in protocol.py. Each
-- piece is looked through as it passes; nothing is held back and nothing kept.

local find, sub = string.find, string.sub
local EVENT = "data: {" -- of a stream; the last one, [DONE], is none
local REASON, CUT_OFF = '"finish_reason":%s*"%l', '"finish_reason":%s*"length"'
local LONGEST = 40 -- bytes of what is looked for: a piece may end in the middle of it

local function events_in(bytes)
  local count, at = 0, find(bytes, EVENT, 1, true)
  while at do
    count, at = count + 1, find(bytes, EVENT, at + #EVENT, true)
  end
  return count
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") ~= "200" then
    return
  end
  local streamed = sub(headers:get("content-type") or "", 1, 17) == "text/event-stream"
  if streamed then
    tell(handle, "streamed", true)
  end
  local began, events, rest, ended, cut_off = nil, 0, "", false, 0
  for piece in handle:bodyChunks() do
    local bytes = piece:getBytes(0, piece:length())
    if streamed then
      began = began or microseconds(handle)
      events = events + events_in(bytes)
    end
    local text = rest .. bytes
    -- Quotes inside of a text are escaped, so a text that holds these words is not taken for them.
    if find(text, REASON) then
      ended = true
      cut_off = find(text, CUT_OFF) and 1 or cut_off
    end
    rest = sub(text, -LONGEST)
  end
  tell_end(handle, began, events, 3, ended, cut_off)
end
