-- One turn: settles the reservation that its caller holds and makes the next one, of the first key that has jobs.
-- KEYS  of each key, highest priority first: waiting, reserved; at last delayed, dead and stats of the key held
-- ARGV  1 key held, from 1   2 length of its reserved list   3 next token   4 divisor, 0 = no share   5 most bytes
--       6 jobs that ended   7 those of them that failed   of each key: token expected, most jobs
--       then the fates of jobs held that were not done, if any
-- Answers {key, jobs, jobs, ...}, the key from 1, or nil (LOST) when a reserved list is not as its caller knows it; then
-- nothing is written.
local call = redis.call
local held, held_length, next_token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local keys = (#KEYS - 3) / 2
local delayed, dead, stats = KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
local fates = 8 + 2 * keys
local has_fates = #ARGV > fates

local function is_known(key, length)
  local reserved = KEYS[2 * key]
  return call('LINDEX', reserved, 0) == ARGV[6 + 2 * key] and call('LLEN', reserved) == length
end

-- How many jobs at the head of a part have at most so many bytes together; they are fewer than all.
local function fitting(part, most_bytes)
  local place = 0
  while most_bytes >= #part[place + 1] do
    place = place + 1
    most_bytes = most_bytes - #part[place]
  end
  return place
end

-- Up to `most` jobs in parts, at least one, but no second one beyond so many bytes. The parts grow, and each is read
-- only if its last job says that it will fit: a thousand large jobs must not stand in the server's memory twice. No
-- part is large, since that last job may be a small one behind large ones.
local function read(waiting, most, most_bytes)
  local parts, count, size = {}, 0, 1
  while count < most and most_bytes > 0 do
    size = math.min(size, most - count)
    while size > 1 and #call('LINDEX', waiting, count + size - 1) * size > most_bytes do
      size = math.floor(size / 2)
    end
    local part = call('LRANGE', waiting, count, count + size - 1)
    local bytes = 0
    for place = 1, size do
      bytes = bytes + #part[place]
    end
    if bytes > most_bytes and count > 0 then
      size = fitting(part, most_bytes)
      if size > 0 then
        parts[#parts + 1] = {unpack(part, 1, size)}
      end
      return parts, count + size
    end
    most_bytes = most_bytes - bytes
    parts[#parts + 1] = part
    count = count + size
    size = math.min(16 * size, 64)
  end
  return parts, count
end

if not is_known(held, held_length) then
  return false
end
local key, length, parts, count = held, held_length, {}, 0
for candidate = 1, keys do
  local waiting = call('LLEN', KEYS[2 * candidate - 1])
  if waiting > 0 then
    if candidate ~= held then
      key, length = candidate, 1
      if not is_known(key, length) then
        return false
      end
    end
    local most, divisor = tonumber(ARGV[7 + 2 * key]), tonumber(ARGV[4])
    if divisor > 0 then
      most = math.min(most, math.max(1, math.ceil(waiting / divisor)))
    end
    parts, count = read(KEYS[2 * key - 1], math.min(most, waiting), tonumber(ARGV[5]))
    break
  end
end
if has_fates then
  local mistyped = find_mistyped({delayed, dead})
  if mistyped then
    return mistyped
  end
end

-- A full server refuses a script only at its first write, and never this one.
call('LTRIM', KEYS[2 * held], 0, -1)
-- Scripts are not rolled back: copy first, trim after. The token of the list held changes even if it gets no job, so
-- that a late twin of this turn finds nothing to do.
if has_fates then
  send(fates, delayed, dead, stats)
end
call('RPUSH', KEYS[2 * key], next_token, unpack(parts[1] or {}))
for part = 2, #parts do
  call('RPUSH', KEYS[2 * key], unpack(parts[part]))
end
call('LTRIM', KEYS[2 * key], length, -1)
if key ~= held then
  call('RPUSH', KEYS[2 * held], next_token)
  call('LTRIM', KEYS[2 * held], held_length, -1)
end
if count > 0 then
  call('LTRIM', KEYS[2 * key - 1], count, -1)
end
-- Figures never stop a job: pcall.
if ARGV[6] ~= '0' then redis.pcall('HINCRBY', stats, 'processed', ARGV[6]) end
if ARGV[7] ~= '0' then redis.pcall('HINCRBY', stats, 'failed', ARGV[7]) end
return {key, unpack(parts)}
