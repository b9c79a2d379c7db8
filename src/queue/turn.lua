-- One turn: settles the reservation that its caller holds and makes the next one, of the first key that has jobs.
-- KEYS  of each key, highest priority first: waiting, reserved; at last the stats of the key held
-- ARGV  1 key held, from 1   2 length of its reserved list   3 next token   4 divisor, 0 = no share   5 most bytes
--       6 jobs that ended   7 those of them that failed   of each key: token expected, most jobs
-- Answers {key, jobs}, or nil (LOST) when a reserved list is not as its caller knows it; then nothing is written.
local held, held_length, next_token, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5])

local function is_known(key, length)
  local reserved = KEYS[2 * key]
  return redis.call('LINDEX', reserved, 0) == ARGV[6 + 2 * key] and redis.call('LLEN', reserved) == length
end

-- Up to `most` jobs, and at least one. More and more are read at a time, and only when the last of them says that they
-- will fit: a thousand jobs of a megabyte must not stand in the server's memory twice.
local function read(waiting, most)
  local jobs, count, bytes, step = redis.call('LRANGE', waiting, 0, 0), 1, 0, 4
  bytes = #jobs[1]
  while count < most and bytes < most_bytes do
    step = math.min(step, most - count)
    local last = #redis.call('LINDEX', waiting, count + step - 1)
    if last * step > most_bytes - bytes then
      step = math.floor((most_bytes - bytes) / last)
      if step == 0 then return jobs end
    end
    local more = redis.call('LRANGE', waiting, count, count + step - 1)
    for place = 1, step do
      bytes = bytes + #more[place]
      if bytes > most_bytes then return jobs end
      count = count + 1
      jobs[count] = more[place]
    end
    step = 4 * step
  end
  return jobs
end

if not is_known(held, held_length) then
  return false
end
local key, length, jobs = held, held_length, {}
for candidate = 1, (#KEYS - 1) / 2 do
  local waiting = redis.call('LLEN', KEYS[2 * candidate - 1])
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
    jobs = read(KEYS[2 * key - 1], math.min(most, waiting))
    break
  end
end

-- A full server refuses a script only at its first write, and never this one.
redis.call('LTRIM', KEYS[2 * held], 0, -1)
-- Scripts are not rolled back: copy first, trim after. The token of the list held changes even if it gets no job, so
-- that a late twin of this turn finds nothing to do.
redis.call('RPUSH', KEYS[2 * key], next_token, unpack(jobs))
redis.call('LTRIM', KEYS[2 * key], length, -1)
if key ~= held then
  redis.call('RPUSH', KEYS[2 * held], next_token)
  redis.call('LTRIM', KEYS[2 * held], held_length, -1)
end
if #jobs > 0 then
  redis.call('LTRIM', KEYS[2 * key - 1], #jobs, -1)
end
-- Figures never stop a job: pcall.
if ARGV[6] ~= '0' then redis.pcall('HINCRBY', KEYS[#KEYS], 'processed', ARGV[6]) end
if ARGV[7] ~= '0' then redis.pcall('HINCRBY', KEYS[#KEYS], 'failed', ARGV[7]) end
return {key, jobs}
