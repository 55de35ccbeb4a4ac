-- What the scripts of protocols' answers have in common, and stands before each of them; what they tell
-- is said at `answers` in protocol.py.

local function tell(handle, name, value)
  handle:streamInfo():dynamicMetadata():set("adire", name, value)
end

local function microseconds(handle)
  return tonumber(handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
end

-- An answer has ended. `began`: when its first piece came; `pieces`: how many followed each other, which
-- shows a pace from the number `least` on; `ended`: whether it said how it ended; `cut_off`: 1 or 0.
local function tell_end(handle, began, pieces, least, ended, cut_off)
  if pieces >= least then
    tell(handle, "inter_token", math.max(0, (microseconds(handle) - began) / (pieces - 1)))
  end
  if ended then
    tell(handle, "cut_off", cut_off)
  end
end

