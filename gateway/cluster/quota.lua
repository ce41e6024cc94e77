-- What is used of one period: KEYS[1] is a number. ARGV: what is owed from before, the weight of a request (0: none, below: given
-- back), the quota, and when the period is forgotten (Unix time in ms).
local used = tonumber(redis.call('GET', KEYS[1]) or 0)
local was = used
used = used + ARGV[1]
local weight, passed = tonumber(ARGV[2]), 0
if weight <= 0 or used + weight <= tonumber(ARGV[3]) then
  used, passed = math.max(0, used + weight), 1
end
if used ~= was then
  redis.call('SET', KEYS[1], string.format('%.0f', used))
  redis.call('PEXPIREAT', KEYS[1], ARGV[4])
end
return { passed, used }
