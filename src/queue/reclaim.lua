-- Ends a reserved list: settles what ended, gives the rest back to the head in order, deletes list and registration.
-- KEYS  1 waiting   2 reserved   3 registry   4 delayed   5 dead   6 stats
-- ARGV  1 first element seen   2 length seen, 0 = no list   3 elements to drop from the list's head
--       4 jobs that ended   5 those of them that failed   6 jobs to count as reclaimed   then the fates, if any
-- Answers the number of jobs given back, or nil (LOST) when the list is another than was seen; then nothing is written.
local length = redis.call('LLEN', KEYS[2])
if length ~= tonumber(ARGV[2]) or (length > 0 and redis.call('LINDEX', KEYS[2], 0) ~= ARGV[1]) then
  return false
end
redis.call('LLEN', KEYS[1]) -- keys of another type fail here, before the first write
redis.call('SCARD', KEYS[3])
local has_fates = #ARGV > 6
if has_fates then
  local mistyped = find_mistyped({KEYS[4], KEYS[5]})
  if mistyped then
    return mistyped
  end
end

redis.call('LTRIM', KEYS[2], 0, -1) -- a full server refuses a script only at its first write, and never this one
local head = has_fates and send(7, KEYS[4], KEYS[5], KEYS[6])
local back = math.max(0, length - tonumber(ARGV[3]))
for _ = 1, back do
  redis.call('LMOVE', KEYS[2], KEYS[1], 'RIGHT', 'LEFT')
end
if head then
  redis.call('LPUSH', KEYS[1], head)
  back = back + 1
end
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[3], KEYS[2])
-- Figures never stop a job: pcall.
if ARGV[4] ~= '0' then redis.pcall('HINCRBY', KEYS[6], 'processed', ARGV[4]) end
if ARGV[5] ~= '0' then redis.pcall('HINCRBY', KEYS[6], 'failed', ARGV[5]) end
if ARGV[6] ~= '0' then redis.pcall('HINCRBY', KEYS[6], 'reclaimed', ARGV[6]) end
return back
