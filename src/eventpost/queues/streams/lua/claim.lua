-- Take entries of one lane: what others let go of, if asked, then fresh ones.
-- ARGV: consumer, lane, URL, events wanted, bytes wanted, idle ms after which others' may be taken, how many entries of
-- others to take, then ids of entries of its own to have once more.
-- Returns: the ids of own entries that are idle for so long, events still waiting, how many entries of others were
-- taken, then for each entry: id, writer, events, data, what is settled of it.
may_write_when_full()
local consumer, lane, url = ARGV[1], ARGV[2], ARGV[3]
local key = stream(lane)
local wanted, room = tonumber(ARGV[4]), tonumber(ARGV[5])
local out, got, size = {{}, 0, 0}, 0, 0
local function take(entry)
  local writer, n, data = fields(entry[2])
  out[#out + 1] = {entry[1], writer, n, data, n > 1 and redis.call('HGET', parts(lane), entry[1]) or ''}
  got = got + n
  size = size + #data
  return n
end

-- Not XAUTOCLAIM: it looks at ten times as many as it takes, so behind a long list the idle ones come late; and it
-- would take what this process itself gave back, and wait for nobody else to take.
local function take_over(id)
  for _, entry in ipairs(redis.call('XCLAIM', key, 'g', consumer, ARGV[6], id)) do
    if type(entry) == 'table' and entry[2] then take(entry) end
  end
end
local others = tonumber(ARGV[7])
if others > 0 then
  local from, pages = '-', 0
  while others > 0 and pages < 8 do
    local idle = redis.pcall('XPENDING', key, 'g', 'IDLE', ARGV[6], from, '+', 64)
    if type(idle) ~= 'table' or idle.err or #idle == 0 then break end
    for _, one in ipairs(idle) do
      from = '(' .. one[1]
      if one[2] == consumer then
        out[1][#out[1] + 1] = one[1]
      elseif others > 0 then
        take_over(one[1])
        others = others - 1
        out[3] = out[3] + 1
      end
    end
    pages = pages + 1
  end
end
for at = 8, #ARGV do take_over(ARGV[at]) end

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
    local seen = #out - 3
    local each, weight = math.max(1, got / seen), math.max(1, size / seen)
    step = math.max(1, math.min(seen * 2, 256, math.ceil((wanted - got) / each), math.ceil((room - size) / weight)))
  end
end
if dry then
  redis.call('HSET', LANES, url, 0)
elseif taken > 0 then
  less_waiting(url, taken)
end
out[2] = tonumber(redis.call('HGET', LANES, url) or '0')
return out
