-- Say of entries that this consumer holds how long they count as idle: 0 renews a lease, a whole lease ends it.
-- ARGV: consumer, then for each entry: lane, id, idle ms.  Returns 1 for each that is still this consumer's, else 0.
may_write_when_full()
local out, together = {}, {}
for at = 2, #ARGV, 3 do
  local lane, id, idle = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local mine = holder(stream(lane), id) == ARGV[1]
  if mine then
    local name = lane .. ' ' .. idle
    local ids = together[name]
    if not ids then ids = {lane = lane, idle = idle}; together[name] = ids end
    ids[#ids + 1] = id
  end
  out[#out + 1] = mine and 1 or 0
end
for _, ids in pairs(together) do
  local call = {'XCLAIM', stream(ids.lane), 'g', ARGV[1], 0}
  for _, id in ipairs(ids) do call[#call + 1] = id end
  call[#call + 1] = 'IDLE'
  call[#call + 1] = ids.idle
  call[#call + 1] = 'JUSTID'
  redis.call(unpack(call))
end
return out
