-- What a stream of KServe's gRPC shows on its way through, see `answers` in protocol.py. A piece is a
-- message; how the answer ended is its output `finish_reason`, where a release has that: looked for
-- are its name and, from there on, the text "length". Nothing is held back and nothing kept.

local byte, find, sub = string.byte, string.find, string.sub
local REASON, CUT_OFF = "finish_reason", "\6%z%z%zlength" -- a name, and a text behind its length
local LONGEST = 40 -- bytes of what is looked for: a piece may end in the middle of it
local HEAD = 5 -- bytes before each message: a flag, and its length

function envoy_on_response(handle)
  if handle:headers():get("grpc-status") then
    return -- it ended before it began
  end
  tell(handle, "streamed", true)
  local began, messages, head, left = nil, 0, "", 0
  local rest, ended, cut_off = "", false, 0
  for piece in handle:bodyChunks() do
    local bytes, at = piece:getBytes(0, piece:length()), 1
    began = began or microseconds(handle)
    while at <= #bytes do
      if left > 0 then
        local step = math.min(left, #bytes - at + 1)
        left, at = left - step, at + step
      else
        local from = at
        at = at + HEAD - #head
        head = head .. sub(bytes, from, at - 1)
        if #head == HEAD then
          local a, b, c, d = byte(head, 2, HEAD)
          left, head, messages = ((a * 256 + b) * 256 + c) * 256 + d, "", messages + 1
        end
      end
    end
    local text = rest .. bytes
    local from = ended and 1 or find(text, REASON, 1, true)
    if from then
      ended = true
      cut_off = find(text, CUT_OFF, from) and 1 or cut_off
    end
    rest = sub(text, -LONGEST)
  end
  tell_end(handle, began, messages, 2, ended, cut_off)
end
