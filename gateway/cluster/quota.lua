-- What is used of one period: KEYS[1] is a hash: 'u' is what is used, and by their nonces what calls have taken whose answers may have been
-- lost. ARGV: the nonce of this call, '' for one that is not remembered; what is owed from before, the weight of a request (0: none, below:
-- given back), the quota, and when the period is forgotten (Unix time in ms); how many earlier calls are made good, and of each its nonce,
-- what it owed, and what it shall have taken, whether it was carried out or not; then the nonces of calls that are not to be remembered any more.
local key, nonce, weight, passed, at = KEYS[1], ARGV[1], tonumber(ARGV[3]), 0, 7
local before = tonumber(redis.call('HGET', key, 'u') or 0)
local used, changed = before, tonumber(ARGV[6]) > 0
for _ = 1, tonumber(ARGV[6]) do
  local name, owed, took = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local had = redis.call('HGET', key, name) -- which owed what it did, too
  used = math.max(0, used + took - (had and tonumber(had) or -owed))
  redis.call('HSET', key, name, ARGV[at + 2]) -- one that comes after this is not carried out
  at = at + 3
end
if nonce == '' or redis.call('HEXISTS', key, nonce) == 0 then
  local was = used
  used = used + ARGV[2]
  if weight <= 0 or used + weight <= tonumber(ARGV[4]) then
    used, passed = used + weight, 1
  end
  used = math.max(0, used)
  if nonce ~= '' and (passed == 1 or used ~= was) then
    redis.call('HSET', key, nonce, passed == 1 and ARGV[3] or '0')
    changed = true
  end
end
for i = at, #ARGV do redis.call('HDEL', key, ARGV[i]) end
if changed or used ~= before then
  redis.call('HSET', key, 'u', string.format('%.0f', used))
  redis.call('PEXPIREAT', key, ARGV[5])
end
return { passed, used }
