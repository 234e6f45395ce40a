-- This consumer ends: what it still holds may be taken by anybody at once, and where it holds nothing it is forgotten.
-- ARGV: consumer, idle ms that end a lease.  Returns how many entries it held.
may_write_when_full()
local held = 0
local lanes = redis.call('HGETALL', P .. 'digests')
for at = 1, #lanes, 2 do
  local key = stream(lanes[at + 1])
  local from, mine = '-', 0
  while true do
    local list = redis.pcall('XPENDING', key, 'g', from, '+', 1000, ARGV[1])
    if type(list) ~= 'table' or list.err or #list == 0 then break end
    for _, one in ipairs(list) do
      redis.call('XCLAIM', key, 'g', ARGV[1], 0, one[1], 'IDLE', ARGV[2], 'JUSTID')
      from = '(' .. one[1]
    end
    mine = mine + #list
  end
  if mine == 0 then redis.pcall('XGROUP', 'DELCONSUMER', key, 'g', ARGV[1]) end
  held = held + mine
end
return held
