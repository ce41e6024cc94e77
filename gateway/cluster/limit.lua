-- Tokens of one caller in up to six windows, shared by instances.
--
-- KEYS[1] is a hash: '@' is when it was brought up to date (µs), 'b' when it was begun, 'w'.. the tokens of each window, 'm'.. of
-- each instance how many tokens it may hold and until when, 'n'.. its latest call and until when that is remembered. A missing one
-- stands for full windows of which nobody holds any.
--
-- Two rules make that no more passes than the limit: what is held and what is here together never exceed a window's capacity, and
-- of each instance that has not told of this caller its share stays here, since it serves from that without asking.
local floor, max, min, match, find, sub = math.floor, math.max, math.min, string.match, string.find, string.sub

local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
-- op: take (by a request that waits), pay (what is owed, as far as there is any), claim (I have told of nothing so far), rejoin (I
-- have served on my own: what is owed is what I used less what I was lent), sync, release (I hold none any more, and want my share
-- to be kept for me, or a little that is mine for as long as one who holds none is remembered).
local op, me, live, share = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local held, give, want, cost, valid = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
-- nonce names this call, which is made again where its answer was lost; birth is which hash I was told of last, '0' for none.
local nonce, birth = ARGV[11], ARGV[12]
local remembered = 6e8

local f, gone, lapsed, out, told, mine, known, again = {}, {}, {}, 0, 0, 0, false, false
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local name, value = all[i], all[i + 1]
  local what, whose = sub(name, 1, 1), sub(name, 2)
  if what == 'm' then
    local has, ends = match(value, '^(%d+) (%d+)$')
    has, ends = tonumber(has), tonumber(ends)
    if whose == me then
      mine, known = has, true
    elseif ends > now then
      out = out + has
      if find(live, whose, 1, true) then told = told + 1 end
    elseif has == 0 or ends + remembered <= now then
      gone[#gone + 1] = name
    else
      lapsed[#lapsed + 1] = name -- debited, and of use to nobody unless it comes back
    end
  elseif what == 'n' then
    local last, ends = match(value, '^(%d+) (%d+)$')
    if whose == me then
      again = last == nonce
    elseif tonumber(ends) <= now then
      gone[#gone + 1] = name
    end
  else
    f[name] = value
  end
end
local untold = max(0, (#live + 1) / 17 - 1 - told)
local last = min(now, tonumber(f['@'] or now))

-- The number of the window of the clock that a moment is in, and when the next begins at the latest.
local length = { second = 1e6, minute = 6e7, hour = 36e8, day = 864e8 }
local function window(unit, at)
  if length[unit] then
    local n = floor(at / length[unit])
    return n, (n + 1) * length[unit]
  end
  -- The civil calendar, in years that begin in March.
  local z = floor(at / 864e8) + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local y, m = yoe + era * 400, mp < 10 and mp + 3 or mp - 9
  if m <= 2 then y = y + 1 end
  if unit == 'month' then return y * 12 + m, at + 31 * 864e8 end
  return y, at + 366 * 864e8
end

local fresh = op == 'claim' or op == 'rejoin'
local forgotten = birth ~= '0' and f['b'] ~= birth -- what I had told before is not known any more
if again then -- and only the answer is of use
  fresh, give, want = false, 0, 0
elseif op ~= 'pay' then
  give = min(give, mine)
end
local t, least = {}, math.huge
for i = 0, (#ARGV - 13) / 6 do
  local at = 13 + i * 6
  local name, kind, cap, rate, owe = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  if forgotten then owe = tonumber(ARGV[at + 5]) end -- what my part of the window lacks
  -- What I held while time passed counts against the room as well: it may have been used only now.
  local room = cap - out - mine
  local has = tonumber(f[name])
  if not has then
    has = room
  elseif kind == 'bucket' then
    has = has + (now - last) * rate
  elseif window(kind, now) > window(kind, last) then
    has = room
    for j = 1, #lapsed do gone[#gone + 1] = lapsed[j] end -- debited from a window that is over
    lapsed = {}
    if op == 'rejoin' and not again then -- what I used of this one is owed, whatever I was lent of the last
      room, has, owe = cap - out, cap - out, max(owe, 0)
    end
  end
  has = min(has, room) + give
  if again then
    owe = 0
  elseif op == 'pay' then
    has, owe = min(has, room), max(owe, 0)
  end
  if owe < 0 then -- what I was lent and have not used, unless it is not there any more
    has = min(has + min(-owe, mine), cap - out)
  elseif op == 'rejoin' or op == 'pay' then
    has = has - min(owe, max(has, 0))
  else
    has = max(has - owe, -cap)
  end
  t[i + 1] = { name = name, kind = kind, cap = cap, rate = rate, has = has }
  least = min(least, has)
end

local keep, granted, left = held, 0, 0
if again then
  if op == 'release' and not known then left = 1 end
  if op ~= 'sync' then keep = op ~= 'release' and mine or 0 end
  granted = mine - keep
elseif fresh then
  keep = max(0, min(held, floor(least)))
end
local spent = fresh and keep or 0
if again then
  spent = -granted -- it was debited then
elseif op == 'take' then
  if least >= want then granted = want end
elseif op == 'release' then
  if floor(least) - share * (untold + 1) >= 0 then
    left = 1
  else
    -- A little is kept for when I am asked again, of what is left and promised to nobody.
    granted = max(0, min(want, floor((floor(least) - share * untold) / (4 * (untold + told + 1)))))
    granted = granted - granted % cost
  end
elseif want > 0 then
  local free = floor(least) - spent - share * untold
  if free >= cost then
    granted = min(want, max(cost, floor(free / (2 * (untold + told + 1)))))
    granted = granted - granted % cost
  end
end
spent = spent + granted

local full, latest, tokens = true, 0, {}
local set = { 'HSET', KEYS[1], '@', string.format('%.0f', now) }
if not f['@'] then
  f['b'] = string.format('%.0f', now)
  set[#set + 1] = 'b'
  set[#set + 1] = f['b']
end
if nonce ~= '' then
  set[#set + 1] = 'n' .. me
  set[#set + 1] = nonce .. string.format(' %.0f', now + remembered)
end
for i, w in ipairs(t) do
  w.has = w.has - spent
  tokens[i] = string.format('%.3f', w.has)
  set[#set + 1] = w.name
  set[#set + 1] = string.format('%.17g', w.has)
  full = full and w.has >= w.cap
  if w.kind == 'bucket' then
    latest = max(latest, (w.cap - w.has) / w.rate)
  else
    local _, ends = window(w.kind, now)
    latest = max(latest, ends - now)
  end
end
if op == 'release' and left == 1 then
  gone[#gone + 1] = 'm' .. me
elseif op ~= 'take' and op ~= 'pay' then
  full = false
  -- Who holds none is remembered for longer: it must not serve from its share before it is kept for it again.
  local has = keep + granted
  if op == 'release' then valid = 6e7 end
  set[#set + 1] = 'm' .. me
  set[#set + 1] = string.format('%.0f %.0f', has, now + (has > 0 and valid or 6e7))
end
if full and out == 0 and told == 0 then
  redis.call('DEL', KEYS[1])
  f['b'] = '0'
else
  redis.call(unpack(set))
  if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
  -- No longer than there are numbers: a large bucket may be full again in thousands of years.
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', min(latest / 1000 + valid / 1000 + 1000, 1e15)))
end
return { granted, keep, left, untold, out, f['b'] or '0', unpack(tokens) }
