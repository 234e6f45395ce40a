-- Say of entries that this consumer holds how long they count as idle: 0 renews a lease, a whole lease ends it.
-- ARGV: consumer, then for each entry: lane, id, idle ms.  Returns 1 for each that is still this consumer's, else 0.
may_write_when_full()
local out = {}
for at = 2, #ARGV, 3 do
  local key, id = stream(ARGV[at]), ARGV[at + 1]
  local mine = holder(key, id) == ARGV[1]
  if mine then redis.call('XCLAIM', key, 'g', ARGV[1], 0, id, 'IDLE', ARGV[at + 2], 'JUSTID') end
  out[#out + 1] = mine and 1 or 0
end
return out
