-- Stands in front of every other script.  KEYS[1] is the part's "sum"; all other keys begin as it does, and lie in its slot.
local P = string.sub(KEYS[1], 1, -4)
local SUM, LANES, DEAD = KEYS[1], P .. 'lanes', P .. 'dead'
local TTL_S = 2592000

-- What changes is added up per writer and written once, at the end.
local changes, order = {}, {}
local function count(writer, field, n)
  if n == 0 then return end
  local of = changes[writer]
  if not of then of = {}; changes[writer] = of; order[#order + 1] = writer end
  of[field] = (of[field] or 0) + n
end
local function write_counts()
  local all = {}
  for _, writer in ipairs(order) do
    local key = P .. 'w:' .. writer
    for field, n in pairs(changes[writer]) do
      redis.call('HINCRBY', key, field, n)
      all[field] = (all[field] or 0) + n
    end
    redis.call('EXPIRE', key, TTL_S)
  end
  for field, n in pairs(all) do redis.call('HINCRBY', SUM, field, n) end
end

-- A server that is out of memory refuses writes that could need some, but not in a script that has written already.
-- What gives memory back has to go on there: it begins with a write that changes nothing.
local function may_write_when_full() redis.call('HDEL', SUM, '') end

local function now_ms()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end
local function stream(lane) return P .. 's:' .. lane end
local function parts(lane) return P .. 'p:' .. lane end

local function ensure_group(key)
  local made = redis.pcall('XGROUP', 'CREATE', key, 'g', '0', 'MKSTREAM')
  if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then error(made.err) end
end

-- Who holds an entry: its consumer's name, or nil.
local function holder(key, id)
  local found = redis.pcall('XPENDING', key, 'g', id, id, 1)
  if type(found) ~= 'table' or found.err or not found[1] then return nil end
  return found[1][2]
end

-- The three fields of an entry of ours; of somebody else's, what can be made of it.
local function fields(list)
  local writer, events, data = '?', 1, ''
  for at = 1, #list, 2 do
    if list[at] == 'w' then writer = list[at + 1]
    elseif list[at] == 'n' then events = tonumber(list[at + 1]) or 1
    elseif list[at] == 'd' then data = list[at + 1] end
  end
  return writer, events, data
end
local function named(list)
  local by_name = {}
  for at = 1, #list, 2 do by_name[list[at]] = list[at + 1] end
  return by_name
end

local function less_waiting(url, n)
  if redis.call('HINCRBY', LANES, url, -n) < 0 then redis.call('HSET', LANES, url, 0) end
end

-- Remove an entry; true if it was there.
local function remove(lane, key, id, events, bytes)
  redis.call('XACK', key, 'g', id)
  local there = redis.call('XDEL', key, id) == 1
  if events > 1 then redis.call('HDEL', parts(lane), id) end
  if there then redis.call('HINCRBY', SUM, 'b', -bytes) end
  return there
end

-- Note that events of an entry are settled.  which: '' for all, else pairs "first-last," counted from 1.
-- Returns how many were not settled before.
local function settle(lane, id, events, bytes, which)
  local key = stream(lane)
  local before = events > 1 and redis.call('HGET', parts(lane), id) or false
  if which == '' then
    local left = events
    if before then left = select(2, string.gsub(before, '0', '')) end
    return remove(lane, key, id, events, bytes) and left or 0
  end
  if not before then
    if not holder(key, id) and #redis.call('XRANGE', key, id, id) == 0 then return 0 end
    before = string.rep('0', events)
  end
  local after, fresh = before, 0
  for first, last in string.gmatch(which, '(%d+)-(%d+),') do
    first, last = tonumber(first), tonumber(last)
    fresh = fresh + select(2, string.gsub(string.sub(after, first, last), '0', ''))
    after = string.sub(after, 1, first - 1) .. string.rep('1', last - first + 1) .. string.sub(after, last + 1)
  end
  if string.find(after, '0', 1, true) then
    if fresh > 0 then redis.call('HSET', parts(lane), id, after) end
  else
    remove(lane, key, id, events, bytes)
  end
  return fresh
end

-- Drop dead letters beyond the bounds, the oldest first, at most 1000 at once.  bytes_max, age_max_s: '' for none.
local function expire_dead(bytes_max, age_max_s)
  local bound = tonumber(bytes_max)
  local before_ms = nil
  if age_max_s ~= '' then before_ms = now_ms() - tonumber(age_max_s) * 1000 end
  local bytes = tonumber(redis.call('HGET', SUM, 'xb') or '0')
  local gone = 0
  while gone < 1000 do
    local oldest = redis.call('XRANGE', DEAD, '-', '+', 'COUNT', 1)[1]
    if not oldest then
      if bytes ~= 0 then redis.call('HSET', SUM, 'xb', 0) end
      break
    end
    local at_ms = tonumber(string.match(oldest[1], '^%d+'))
    if not ((bound and bytes > bound) or (before_ms and at_ms < before_ms)) then break end
    local letter = named(oldest[2])
    redis.call('XDEL', DEAD, oldest[1])
    local size = #(letter.d or '')
    bytes = bytes - size
    redis.call('HINCRBY', SUM, 'xb', -size)
    count(letter.w or '?', 'x', -1)
    count(letter.w or '?', '-dead_expired', 1)
    gone = gone + 1
  end
  return gone
end
