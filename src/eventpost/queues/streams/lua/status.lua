-- One part, as it is.  Changes nothing.
-- Returns: now in ms, "sum", dead letters, then for each lane: URL, events nobody has claimed, entries, entries that are
-- pending, the oldest entry's id, and a list of consumers: name, entries pending, idle ms.
local out = {now_ms(), redis.call('HGETALL', SUM), redis.call('XLEN', DEAD)}
local lanes = redis.call('HGETALL', P .. 'digests')
for at = 1, #lanes, 2 do
  local url, key = lanes[at], stream(lanes[at + 1])
  local pending, consumers = 0, {}
  local known = redis.pcall('XINFO', 'CONSUMERS', key, 'g')
  if type(known) == 'table' and not known.err then
    for _, one in ipairs(known) do
      local consumer = named(one)
      pending = pending + consumer.pending
      consumers[#consumers + 1] = {consumer.name, consumer.pending, consumer.idle}
    end
  end
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  out[#out + 1] = {
    url, tonumber(redis.call('HGET', LANES, url) or '0'), redis.call('XLEN', key), pending, oldest and oldest[1] or '',
    consumers,
  }
end
return out
