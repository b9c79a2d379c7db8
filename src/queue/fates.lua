-- Stands before the scripts that settle, and sends jobs that were not done where they go. ARGV says it from some place
-- on: most jobs in the dead list, ms that they are kept there (0 = for ever), then of each job: 'dead', 'head' or a delay in
-- ms, and what is to lie there.

-- The error that names the first of these keys which is something else than a sorted set; else nil.
local function find_mistyped(keys)
  for _, key in ipairs(keys) do
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'zset' and kind ~= 'none' then
      return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind .. ', not a zset')
    end
  end
end

-- Adds the jobs to the delayed and the dead ones, after the script's first write and before anything is trimmed; answers
-- the one for the head, if any. One clock for many hosts: the server's.
local function send(from, delayed, dead, stats)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local retried, buried, head = 0, 0, nil
  for place = from + 2, #ARGV, 2 do
    local where, entry = ARGV[place], ARGV[place + 1]
    if where == 'head' then
      head = entry
    elseif where == 'dead' then
      redis.call('ZADD', dead, now, entry)
      buried = buried + 1
    else
      redis.call('ZADD', delayed, now + where, entry)
      retried = retried + 1
    end
  end
  if buried > 0 then
    local surplus, kept_ms = redis.call('ZCARD', dead) - ARGV[from], tonumber(ARGV[from + 1])
    if kept_ms > 0 then
      surplus = math.max(surplus, redis.call('ZCOUNT', dead, '-inf', now - kept_ms))
    end
    -- In steps, so that a lowered limit does not stop the server; more than came, so that they get there.
    surplus = math.min(surplus, buried + 100)
    if surplus > 0 then
      redis.call('ZREMRANGEBYRANK', dead, 0, surplus - 1)
    end
  end
  -- Figures never stop a job: pcall.
  if retried > 0 then redis.pcall('HINCRBY', stats, 'retried', retried) end
  if buried > 0 then redis.pcall('HINCRBY', stats, 'buried', buried) end
  return head
end

