-- The log of purges, which those read that were away: KEYS[1] is a list, the youngest first, each with its number. ARGV: what is purged,
-- and how many are kept. The first number is the time, so that nobody takes a log that was begun anew for the old one.
local head = redis.call('LINDEX', KEYS[1], 0)
local n
if head then
  n = tonumber(string.match(head, '^%d+')) + 1
else
  local t = redis.call('TIME')
  n = t[1] * 1000 + math.floor(t[2] / 1000)
end
redis.call('LPUSH', KEYS[1], string.format('%.0f ', n) .. ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
return n
