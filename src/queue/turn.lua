-- One turn: settles the reservation that its caller holds and makes the next one.
-- KEYS  1 waiting   2 reserved   3 stats
-- ARGV  1 token held   2 length of the reserved list with it   3 next token   4 most jobs   5 divisor, 0 = no share
--       6 jobs that ended   7 those of them that failed
-- Answers the jobs, or nil (LOST) when the reserved list is not as its caller knows it; then nothing is written.
if redis.call('LINDEX', KEYS[2], 0) ~= ARGV[1] or redis.call('LLEN', KEYS[2]) ~= tonumber(ARGV[2]) then
  return false
end
local most, divisor = tonumber(ARGV[4]), tonumber(ARGV[5])
local waiting = redis.call('LLEN', KEYS[1])
if divisor > 0 then
  most = math.min(most, math.max(1, math.ceil(waiting / divisor)))
end
local jobs = redis.call('LRANGE', KEYS[1], 0, most - 1)

-- A full server refuses a script only at its first write, and never this one.
redis.call('LTRIM', KEYS[2], 0, -1)
-- Scripts are not rolled back: copy first, trim after. The token changes even if there is no job, so that a late
-- twin of this turn finds nothing to do.
redis.call('RPUSH', KEYS[2], ARGV[3], unpack(jobs))
redis.call('LTRIM', KEYS[2], ARGV[2], -1)
if #jobs > 0 then
  redis.call('LTRIM', KEYS[1], #jobs, -1)
end
-- Figures never stop a job: pcall.
if ARGV[6] ~= '0' then redis.pcall('HINCRBY', KEYS[3], 'processed', ARGV[6]) end
if ARGV[7] ~= '0' then redis.pcall('HINCRBY', KEYS[3], 'failed', ARGV[7]) end
return jobs
