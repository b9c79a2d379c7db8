-- Takes one job for good from the first key that has one, and counts those before it. Without keys it only counts.
-- KEYS  waiting of each key, highest priority first; at last the stats of the key of the jobs before
-- ARGV  1 jobs that ended   2 those of them that failed
-- Answers {key, job}, the key from 1; {} when there is none.
local taken = {}
for key = 1, #KEYS - 1 do
  local job = redis.call('LPOP', KEYS[key])
  if job then
    taken = {key, job}
    break
  end
end
-- Figures never stop a job: pcall.
if ARGV[1] ~= '0' then redis.pcall('HINCRBY', KEYS[#KEYS], 'processed', ARGV[1]) end
if ARGV[2] ~= '0' then redis.pcall('HINCRBY', KEYS[#KEYS], 'failed', ARGV[2]) end
return taken
