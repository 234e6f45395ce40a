-- Now and then: dead letters beyond their bounds, consumers that are gone and hold nothing, lanes that nobody uses.
-- ARGV: consumer (left alone), bytes_max, age_max_s, ms after which an idle consumer is gone, ms for a lane.
may_write_when_full()
local expired = expire_dead(ARGV[2], ARGV[3])
local lanes = redis.call('HGETALL', P .. 'digests')
for at = 1, #lanes, 2 do
  local url, key = lanes[at], stream(lanes[at + 1])
  local consumers = redis.pcall('XINFO', 'CONSUMERS', key, 'g')
  local held = 0
  if type(consumers) == 'table' and not consumers.err then
    for _, one in ipairs(consumers) do
      local consumer = named(one)
      held = held + consumer.pending
      if consumer.pending == 0 and consumer.idle > tonumber(ARGV[4]) and consumer.name ~= ARGV[1] then
        redis.call('XGROUP', 'DELCONSUMER', key, 'g', consumer.name)
      end
    end
  end
  if held == 0 and redis.call('EXISTS', key) == 1 and redis.call('XLEN', key) == 0 then
    local last = named(redis.call('XINFO', 'STREAM', key))['last-generated-id']
    if now_ms() - tonumber(string.match(last, '^%d+')) > tonumber(ARGV[5]) then
      redis.call('DEL', key, parts(lanes[at + 1]))
      redis.call('HDEL', LANES, url)
      redis.call('HDEL', P .. 'digests', url)
    end
  end
end
write_counts()
return expired
