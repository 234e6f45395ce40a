-- Take entries of one lane: what others let go of, if asked, then fresh ones.
-- ARGV: consumer, lane, URL, events wanted, bytes wanted, idle ms after which others' may be taken, where to go on
-- looking for those ("" not to look), how many of them.
-- Returns: where to go on, events still waiting, then for each entry: id, writer, events, data, what is settled of it.
may_write_when_full()
local consumer, lane, url = ARGV[1], ARGV[2], ARGV[3]
local key = stream(lane)
local wanted, room = tonumber(ARGV[4]), tonumber(ARGV[5])
local out, got, size = {'', 0}, 0, 0
local function take(entry)
  local writer, n, data = fields(entry[2])
  out[#out + 1] = {entry[1], writer, n, data, n > 1 and redis.call('HGET', parts(lane), entry[1]) or ''}
  got = got + n
  size = size + #data
  return n
end

if ARGV[7] ~= '' then
  local left = redis.pcall('XAUTOCLAIM', key, 'g', consumer, ARGV[6], ARGV[7], 'COUNT', ARGV[8])
  if type(left) == 'table' and not left.err then
    out[1] = left[1]
    for _, entry in ipairs(left[2]) do
      if type(entry) == 'table' and entry[2] then take(entry) end
    end
  end
end

local taken, step, dry = 0, 1, false
while got < wanted and size < room do
  local found = redis.pcall('XREADGROUP', 'GROUP', 'g', consumer, 'COUNT', step, 'STREAMS', key, '>')
  if type(found) == 'table' and found.err then
    if not string.find(found.err, 'NOGROUP', 1, true) then return redis.error_reply(found.err) end
    if redis.call('EXISTS', key) == 0 then dry = true; break end
    ensure_group(key)  -- somebody destroyed the group: begin anew with all that is there
  else
    local entries = found and found[1] and found[1][2] or {}
    for _, entry in ipairs(entries) do taken = taken + take(entry) end
    if #entries < step then dry = true; break end
    -- Entries hold few events or many: ask for twice as many as yet, but for no more than seem to be wanted.
    local seen = #out - 2
    local each, weight = math.max(1, got / seen), math.max(1, size / seen)
    step = math.max(1, math.min(seen * 2, 256, math.ceil((wanted - got) / each), math.ceil((room - size) / weight)))
  end
end
if dry then
  redis.call('HSET', LANES, url, 0)
elseif taken > 0 then
  less_waiting(url, taken)
  out[2] = tonumber(redis.call('HGET', LANES, url))
end
return out
