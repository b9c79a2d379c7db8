-- Opens a slot's reserved list, unless there is one.
-- KEYS  1 reserved   2 registry
-- ARGV  1 its first token
-- Answers 1, or 0 when a list is there already; then nothing is written.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('SCARD', KEYS[2]) -- a registry of another type fails here, before the first write

redis.call('LTRIM', KEYS[1], 0, -1) -- a full server refuses a script only at its first write, and never this one
redis.call('SADD', KEYS[2], KEYS[1])
redis.call('RPUSH', KEYS[1], ARGV[1])
return 1
