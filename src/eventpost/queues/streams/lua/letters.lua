-- Put dead letters back, or drop them.  ARGV: "retry" or "discard", then ids.  Returns how many were still there.
local done = 0
for at = 2, #ARGV do
  local entry = redis.call('XRANGE', DEAD, ARGV[at], ARGV[at])[1]
  if entry then
    local letter = named(entry[2])
    if ARGV[1] == 'retry' then
      redis.call('XADD', stream(letter.l), '*', 'w', letter.w, 'n', 1, 'd', letter.d)  -- first: it may be refused
      redis.call('HINCRBY', SUM, 'b', #letter.d)
      if redis.call('HINCRBY', LANES, letter.u, 1) == 1 then
        ensure_group(stream(letter.l))
        redis.call('HSET', P .. 'digests', letter.u, letter.l)
      end
    else
      count(letter.w or '?', '-dead_discarded', 1)
    end
    redis.call('XDEL', DEAD, ARGV[at])
    redis.call('HINCRBY', SUM, 'xb', -#(letter.d or ''))
    count(letter.w or '?', 'x', -1)
    done = done + 1
  end
end
write_counts()
return done
