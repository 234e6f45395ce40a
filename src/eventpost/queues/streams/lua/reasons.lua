-- Some dead letters counted by reason.  Changes nothing.
-- ARGV: where to begin, how many.  Returns: the last one's id ("" at the end), then reasons and counts in turn.
local rows = redis.call('XRANGE', DEAD, ARGV[1], '+', 'COUNT', ARGV[2])
local counts, order = {}, {}
for _, row in ipairs(rows) do
  local reason = named(row[2]).r or ''
  if not counts[reason] then counts[reason] = 0; order[#order + 1] = reason end
  counts[reason] = counts[reason] + 1
end
local out = {#rows == tonumber(ARGV[2]) and rows[#rows][1] or ''}
for _, reason in ipairs(order) do
  out[#out + 1] = reason
  out[#out + 1] = counts[reason]
end
return out
