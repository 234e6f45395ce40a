-- Store entries, all or none, once.
-- ARGV: writer, slot, serial, mark, bytes that the part may hold, "drop" or "", then for each entry: URL, lane, events,
-- data.  mark: hex digits that no other put has.
-- Returns "ok", "stored" (before), "full", "memory", "void" (it was taken back), or "twice": the number is another
-- put's; then bytes stored, events dropped, and 1 if the part knew of nothing: it is new, or was emptied.
local writer, slot, serial = ARGV[1], 's:' .. ARGV[2], tonumber(ARGV[3])
local key = P .. 'w:' .. writer
local last = redis.call('HGET', key, slot)
if last then
  local seen, state, mark = string.match(last, '^(%d+)(.?)(%x*)')
  if tonumber(seen) == serial then
    return {state ~= ':' and 'void' or (mark == ARGV[4] and 'stored' or 'twice'), 0}
  end
  if tonumber(seen) > serial then return {'twice', 0} end
end

local wanted, events = 0, 0
for at = 7, #ARGV, 4 do
  events = events + tonumber(ARGV[at + 2])
  wanted = wanted + #ARGV[at + 3]
end
local known = redis.call('HGET', SUM, 'b')
local bytes = tonumber(known or '0')
local over = bytes + wanted - tonumber(ARGV[5])
local dropped = 0
if over > 0 then
  if ARGV[6] ~= 'drop' then return {'full', bytes} end
  -- The oldest entries over all lanes that nobody has claimed; looked for first, so that a refusal drops nothing.
  local heads, victims = {}, {}
  local lanes = redis.call('HGETALL', LANES)
  local keys_of = {}
  for at = 1, #lanes, 2 do
    local digest = redis.call('HGET', P .. 'digests', lanes[at])
    if digest and tonumber(lanes[at + 1]) > 0 then
      local groups = redis.pcall('XINFO', 'GROUPS', stream(digest))
      if type(groups) == 'table' and not groups.err and groups[1] then
        heads[#heads + 1] = {url = lanes[at], key = stream(digest), after = named(groups[1])['last-delivered-id'], at = 1, list = {}}
      end
    end
  end
  while over > 0 do
    local oldest = nil
    for _, head in ipairs(heads) do
      if head.at > #head.list and not head.ended then
        head.list = redis.call('XRANGE', head.key, '(' .. head.after, '+', 'COUNT', 16)
        head.at = 1
        head.ended = #head.list == 0
      end
      if not head.ended then
        local ms, seq = string.match(head.list[head.at][1], '^(%d+)-(%d+)$')
        ms, seq = tonumber(ms), tonumber(seq)
        if not oldest or ms < oldest.ms or (ms == oldest.ms and seq < oldest.seq) then
          oldest = {head = head, ms = ms, seq = seq}
        end
      end
    end
    if not oldest then return {'full', bytes} end
    local head = oldest.head
    local entry = head.list[head.at]
    local whose, n, data = fields(entry[2])
    victims[#victims + 1] = {head = head, id = entry[1], writer = whose, n = n, size = #data}
    over = over - #data
    head.after = entry[1]
    head.at = head.at + 1
  end
  for _, victim in ipairs(victims) do
    redis.call('XDEL', victim.head.key, victim.id)
    redis.call('HINCRBY', SUM, 'b', -victim.size)
    less_waiting(victim.head.url, victim.n)
    count(victim.writer, '-overflow', victim.n)
    dropped = dropped + victim.n
  end
end

local made = {}
local function none(err)  -- a key of the queue's name is somebody else's: nothing of this put stays
  for _, one in ipairs(made) do redis.call('XDEL', one[1], one[2]) end
  return redis.error_reply(err)
end
local placed = {tostring(serial), ':', ARGV[4], ';'}
for at = 7, #ARGV, 4 do
  local url, lane, n = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local id = redis.pcall('XADD', stream(lane), '*', 'w', writer, 'n', n, 'd', ARGV[at + 3])
  if type(id) == 'table' then  -- the first one's: after a write the server goes on, whatever its memory
    if string.find(id.err, 'OOM', 1, true) then return {'memory', bytes} end
    return none(id.err)
  end
  made[#made + 1] = {stream(lane), id}
  placed[#placed + 1] = lane .. ' ' .. id .. ' ' .. n .. ','
  local waiting = redis.pcall('HINCRBY', LANES, url, n)
  if type(waiting) == 'table' then return none(waiting.err) end
  if waiting == tonumber(n) then
    ensure_group(stream(lane))
    local noted = redis.pcall('HSET', P .. 'digests', url, lane)
    if type(noted) == 'table' then
      redis.call('HDEL', LANES, url)
      return none(noted.err)
    end
  end
end
redis.call('HSET', key, slot, table.concat(placed))
redis.call('HINCRBY', SUM, 'b', wanted)
redis.call('HINCRBY', SUM, 'a', events)
redis.call('HINCRBY', key, 'a', events)
redis.call('EXPIRE', key, TTL_S)
if dropped > 0 then write_counts() end
return {'ok', bytes + wanted, dropped, known and 0 or 1}
