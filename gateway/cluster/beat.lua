-- The instances: KEYS[1] is a sorted set of them by when they count as gone. ARGV: my id, for how long I stay (ms), '1' when I leave.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local new = 0
if ARGV[3] == '1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  new = redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return { new, redis.call('ZRANGE', KEYS[1], 0, -1) }
