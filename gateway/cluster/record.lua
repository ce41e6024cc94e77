-- What has become of an idempotency key: KEYS[1] is a hash: 'f' the fingerprint of its request, 'c' and 'u' whose claim it is and until
-- when that gateway is known to live (ms), 'a' the answer. With neither claim nor answer it was carried out, and there is none.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local op, claim = ARGV[1], ARGV[2]
local r = redis.call('HMGET', KEYS[1], 'f', 'c', 'u', 'a')
local print, holder, til, answer = r[1], r[2], r[3], r[4]
if op == 'begin' then -- fingerprint, for how long a claim holds in ms, ttl in ms
  if not print then
    redis.call('HSET', KEYS[1], 'f', ARGV[3], 'c', claim, 'u', string.format('%.0f', now + ARGV[4]))
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    return { 'claimed' }
  elseif print ~= ARGV[3] then
    return { 'reused' }
  elseif answer then
    return { 'answered', answer }
  elseif holder and now < tonumber(til) then
    return { 'in_flight' }
  end
  return { 'lost' }
elseif op == 'put' then -- fingerprint, ttl in ms, answer: what was carried out while nobody could be asked
  if not print then
    redis.call('HSET', KEYS[1], 'f', ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    if ARGV[5] then redis.call('HSET', KEYS[1], 'a', ARGV[5]) end
  end
  return { 'ok' }
elseif holder ~= claim then
  return { 'gone' }
elseif op == 'renew' then -- for how long a claim holds in ms
  redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now + ARGV[3]))
elseif op == 'complete' then -- ttl in ms, answer
  redis.call('HDEL', KEYS[1], 'c', 'u')
  if ARGV[4] then redis.call('HSET', KEYS[1], 'a', ARGV[4]) end
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif op == 'release' then
  redis.call('DEL', KEYS[1])
end
return { 'ok' }
