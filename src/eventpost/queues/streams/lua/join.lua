-- A process comes.  KEYS[1] is part 0's "sum"; ARGV: format, shards.  Returns: format, shards, how many came before.
redis.call('TIME')  -- asked for later: a user who may not is told now
local meta = P .. 'meta'
local format = redis.call('HGET', meta, 'format')
if not format then
  redis.call('HSET', meta, 'format', ARGV[1], 'shards', ARGV[2])
  format = ARGV[1]
end
local shards = tonumber(redis.call('HGET', meta, 'shards') or '1')
if tonumber(ARGV[2]) > shards then
  shards = tonumber(ARGV[2])
  redis.call('HSET', meta, 'shards', shards)
end
return {tonumber(format), shards, redis.call('HINCRBY', meta, 'writers', 1) - 1}
