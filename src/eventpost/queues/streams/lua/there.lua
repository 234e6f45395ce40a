-- What became of entries.  Changes nothing.
-- ARGV: for each entry: lane, id.  Returns for each: 1 if it is there, what is settled of it, who holds it.
local out = {}
for at = 1, #ARGV, 2 do
  local key = stream(ARGV[at])
  local there = #redis.call('XRANGE', key, ARGV[at + 1], ARGV[at + 1])
  out[#out + 1] = {there, redis.call('HGET', parts(ARGV[at]), ARGV[at + 1]) or '', holder(key, ARGV[at + 1]) or ''}
end
return out
