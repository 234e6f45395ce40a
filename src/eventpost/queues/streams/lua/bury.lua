-- Make dead letters of events whose entries this consumer still holds.
-- ARGV: consumer, reason, status, answer, bytes_max, age_max_s, then for each event: lane, URL, id, writer, events,
-- bytes of the entry, its number in the entry, attempts, data.
-- Returns 1 for each that is dead now, 0 where nothing was changed.
may_write_when_full()
local consumer = ARGV[1]
local out = {}
for at = 7, #ARGV, 9 do
  local lane, id, number, data = ARGV[at], ARGV[at + 2], ARGV[at + 6], ARGV[at + 8]
  local done = 0
  if holder(stream(lane), id) == consumer then
    local which = tonumber(ARGV[at + 4]) > 1 and number .. '-' .. number .. ',' or ''
    done = settle(lane, id, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), which)
  end
  if done == 1 then
    redis.call('XADD', DEAD, '*', 'd', data, 'r', ARGV[2], 'c', ARGV[3], 't', ARGV[4], 'k', ARGV[at + 7],
      'u', ARGV[at + 1], 'l', lane, 'w', ARGV[at + 3], 'o', id .. ':' .. number)
    redis.call('HINCRBY', SUM, 'xb', #data)
    count(ARGV[at + 3], 'x', 1)
  end
  out[#out + 1] = done
end
expire_dead(ARGV[5], ARGV[6])
write_counts()
return out
