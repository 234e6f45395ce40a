-- Take back a put whose answer never came, and keep it from ever happening.
-- ARGV: writer, slot, serial, then for each lane: lane, URL.  Returns how many of its events stay accepted.
may_write_when_full()
local writer, slot, serial = ARGV[1], 's:' .. ARGV[2], tonumber(ARGV[3])
local key = P .. 'w:' .. writer
local last = redis.call('HGET', key, slot)
local seen, state, places = nil, nil, nil
if last then seen, state, places = string.match(last, '^(%d+)(.?)(.*)$') end
local stay = 0
if seen and tonumber(seen) > serial then return 0 end
if seen and tonumber(seen) == serial and state == ':' then
  local urls = {}
  for at = 4, #ARGV, 2 do urls[ARGV[at]] = ARGV[at + 1] end
  for lane, id, n in string.gmatch(places, '(%x+) ([%d-]+) (%d+),') do
    n = tonumber(n)
    local entry = redis.call('XRANGE', stream(lane), id, id)[1]
    if entry and not holder(stream(lane), id) then
      local _, _, data = fields(entry[2])
      redis.call('XDEL', stream(lane), id)
      redis.call('HINCRBY', SUM, 'b', -#data)
      if urls[lane] then less_waiting(urls[lane], n) end
      count(writer, 'a', -n)
    else
      stay = stay + n
    end
  end
end
redis.call('HSET', key, slot, tostring(serial) .. '!')
write_counts()
return stay
