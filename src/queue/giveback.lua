-- Gives the last jobs of a reservation back to the head of the queue, in order.
-- KEYS  1 waiting   2 reserved
-- ARGV  1 token   2 length of the reserved list   3 jobs to give back, fewer than that
-- Answers how many, or nil (LOST) when the list is not as its caller knows it; then nothing is written.
if redis.call('LINDEX', KEYS[2], 0) ~= ARGV[1] or redis.call('LLEN', KEYS[2]) ~= tonumber(ARGV[2]) then
  return false
end
redis.call('LLEN', KEYS[1]) -- a key of another type fails here, before the first write

redis.call('LTRIM', KEYS[2], 0, -1) -- a full server refuses a script only at its first write, and never this one
local count = tonumber(ARGV[3])
for _ = 1, count do
  redis.call('LMOVE', KEYS[2], KEYS[1], 'RIGHT', 'LEFT')
end
return count
