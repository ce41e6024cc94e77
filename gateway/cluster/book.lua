-- A table of which all instances keep a copy. KEYS[1] is a hash: ':ID' the entries, '#N' the id that was written as the Nth, '@ID' which
-- one that was, 'v' how many were written, 'b' when the table was begun. ARGV: 'b' and 'v' as far as the caller has read, then ids and
-- values to be written; an empty value takes the entry away. The answer: 'b', 'v', whether all entries follow or those that were
-- written since, and ids with values.
local key, behind = KEYS[1], 1000
local head = redis.call('HMGET', key, 'b', 'v')
local birth, version = head[1], tonumber(head[2] or 0)
if not birth then
  if #ARGV == 2 then return { '', 0, 1 } end
  local t = redis.call('TIME')
  birth = t[1] .. string.format('%06d', t[2])
  redis.call('HSET', key, 'b', birth)
end
for i = 3, #ARGV, 2 do
  local id, value = ARGV[i], ARGV[i + 1]
  version = version + 1
  local at = redis.call('HGET', key, '@' .. id)
  if at then redis.call('HDEL', key, '#' .. at) end
  local n = string.format('%.0f', version)
  redis.call('HSET', key, '#' .. n, id, '@' .. id, n, 'v', n)
  if value == '' then
    redis.call('HDEL', key, ':' .. id)
  else
    redis.call('HSET', key, ':' .. id, value)
  end
  -- Who has not read for so long reads all: it need not be told what was taken away.
  local past = string.format('#%.0f', version - behind)
  local gone = redis.call('HGET', key, past)
  if gone and redis.call('HEXISTS', key, ':' .. gone) == 0 then redis.call('HDEL', key, past, '@' .. gone) end
end
local known = birth == ARGV[1] and tonumber(ARGV[2]) or 0
local out = { birth, version, 0 }
-- Who has read more than there is asks a replica that took over before it had all.
if known == 0 or known > version or version - known >= behind then
  out[3] = 1
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == ':' then
      out[#out + 1] = string.sub(all[i], 2)
      out[#out + 1] = all[i + 1]
    end
  end
  return out
end
for n = known + 1, version do
  local id = redis.call('HGET', key, string.format('#%.0f', n))
  if id then
    out[#out + 1] = id
    out[#out + 1] = redis.call('HGET', key, ':' .. id) or ''
  end
end
return out
