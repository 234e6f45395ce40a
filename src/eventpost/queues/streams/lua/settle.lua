-- Note what became of events.
-- ARGV: what ("d": delivered; "-reason": dropped), then for each entry: lane, id, writer, events, bytes, which of them.
-- Returns how many events of each entry were not settled before.
may_write_when_full()
local out = {}
for at = 2, #ARGV, 6 do
  local fresh = settle(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5])
  count(ARGV[at + 2], ARGV[1], fresh)
  out[#out + 1] = fresh
end
write_counts()
return out
