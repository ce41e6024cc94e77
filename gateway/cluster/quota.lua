-- What is used of one period: KEYS[1] is a hash: 'u' is what is used, and by their nonces what calls have taken whose answers may have been
-- lost. ARGV: the nonce of this call, '' for one that is not remembered; what is owed from before, the weight of a request (0: none, below:
-- given back), the quota, and when the period is forgotten (Unix time in ms); how many earlier calls are made good, and of each its nonce,
-- what it owed, and what it shall have taken, whether it was carried out or not; then the nonces of calls that are not to be remembered any more.
local key, nonce, weight, passed, at = KEYS[1], ARGV[1], tonumber(ARGV[3]), 0, 7
local known = redis.call('HMGET', key, 'u', nonce)
local before = tonumber(known[1] or 0)
local used, set = before, { 'HSET', key }
for _ = 1, tonumber(ARGV[6]) do
  local name, owed, took = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local had = redis.call('HGET', key, name) -- which owed what it did, too
  used = math.max(0, used + took - (had and tonumber(had) or -owed))
  redis.call('HSET', key, name, ARGV[at + 2]) -- one that comes after this is not carried out
  set[3] = 'u'
  at = at + 3
end
if not known[2] then
  local was = used
  used = used + ARGV[2]
  if weight <= 0 or used + weight <= tonumber(ARGV[4]) then
    used, passed = used + weight, 1
  end
  used = math.max(0, used)
  if nonce ~= '' and (passed == 1 or used ~= was) then
    set[5], set[6] = nonce, passed == 1 and ARGV[3] or '0'
  end
end
if set[3] or set[5] or used ~= before then
  set[3], set[4] = 'u', string.format('%.0f', used)
  redis.call(unpack(set, 1, set[5] and 6 or 4))
  if not known[1] then redis.call('PEXPIREAT', key, ARGV[5]) end
end
if at <= #ARGV then redis.call('HDEL', key, unpack(ARGV, at)) end
return { passed, used }
