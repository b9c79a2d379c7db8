-- Puts jobs among the delayed ones. One clock for many hosts: the server's. A full server refuses all of them.
-- KEYS  1 delayed
-- ARGV  1 delay in ms   then what is to lie there
-- Answers how many are delayed.
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
for place = 2, #ARGV do
  redis.call('ZADD', KEYS[1], due, ARGV[place])
end
return redis.call('ZCARD', KEYS[1])
