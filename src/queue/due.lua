-- Moves jobs that are due to the tail of the queue, in the order of their times.
-- KEYS  1 waiting   2 delayed   3 dead
-- ARGV  1 most jobs   2 most bytes: no job follows one that reached them   3 ms that dead jobs are kept, 0 = for ever
-- Answers {jobs moved, ms until the next one is due or -1}.
local mistyped = find_mistyped({KEYS[2], KEYS[3]})
if mistyped then
  return mistyped
end
redis.call('LLEN', KEYS[1]) -- a key of another type fails here, before the first write
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local moved, bytes, due_in = 0, 0, -1
while true do
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if not first[1] then
    break
  end
  due_in = math.min(math.max(0, math.ceil(first[2] - now)), 1e15)
  if due_in > 0 or moved >= tonumber(ARGV[1]) or bytes >= tonumber(ARGV[2]) then
    break
  end
  if moved == 0 then
    redis.call('LTRIM', KEYS[1], 0, -1) -- a full server refuses a script only at its first write, and never this one
  end
  redis.call('RPUSH', KEYS[1], first[1])
  redis.call('ZREM', KEYS[2], first[1])
  moved = moved + 1
  bytes = bytes + #first[1]
  due_in = -1
end
-- Also where nothing is buried any more, old jobs go; in steps, since they may be large.
local kept_ms = tonumber(ARGV[3])
if kept_ms > 0 then
  local old = math.min(redis.call('ZCOUNT', KEYS[3], '-inf', now - kept_ms), 100)
  if old > 0 then
    redis.call('ZREMRANGEBYRANK', KEYS[3], 0, old - 1)
  end
end
return {moved, due_in}
