-- A chat-completions endpoint within nginx: it waits as it was told, counts, and answers the same few hundred bytes.
--
-- One worker has all requests, so that plain tables are its memory. Times are seconds of the wall clock.

local semaphore = require "ngx.semaphore"
local floor, max, min, random, format = math.floor, math.max, math.min, math.random, string.format

local LONGEST_QUEUE_S = 600
local ANSWER = '{"id":"chatcmpl-%08x","object":"chat.completion","created":1700000000,"model":"bench-model",'
  .. '"choices":[{"index":0,"message":{"role":"assistant","content":"The ticket is about billing: the customer was '
  .. 'charged twice and wants the second payment back."},"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,'
  .. '"completion_tokens":%d,"total_tokens":%d}}'
local REFUSAL = '{"error":{"message":"Rate limit reached for %s","type":"%s","param":null,"code":"rate_limit_exceeded"}}'

local endpoint = {}
local set  -- latency_s, slots, requests_per_minute, tokens_per_minute, burst_s, says_limits
local state

-- What is let in: full at the start, and filled again by so much each second. As with the providers, headers speak of
-- the whole minute (`left`), while what is let in is judged over a shorter time (`level`).
local function bucket(per_minute)
  if per_minute == 0 then return nil end
  local rate = per_minute / 60
  local most = rate * set.burst_s
  return {limit = per_minute, rate = rate, most = most, level = most, left = per_minute, at = ngx.now()}
end

local function fill(held, now)
  local more = (now - held.at) * held.rate
  held.level, held.left, held.at = min(held.most, held.level + more), min(held.limit, held.left + more), now
end

local function take(held, amount)
  if held then held.level, held.left = held.level - amount, held.left - amount end
end

function endpoint.reset()
  state = {
    received = 0, answered = 0, refused = 0, in_flight = 0, most_in_flight = 0, first_at = 0, last_at = 0,
    answers = {}, refusals = {}, tokens = {},
    slots = set.slots > 0 and semaphore.new(set.slots) or nil,
    by_requests = bucket(set.requests_per_minute), by_tokens = bucket(set.tokens_per_minute),
  }
  ngx.say("{}")
end

function endpoint.start(settings)
  set = settings
end

local function add(series, amount)
  local second = floor(state.last_at - state.first_at) + 1
  series[second] = (series[second] or 0) + amount
  state.seconds = second
end

local function say_limit(held, unit)
  ngx.header["x-ratelimit-limit-" .. unit] = floor(held.limit)
  ngx.header["x-ratelimit-remaining-" .. unit] = floor(max(0, held.left))
  ngx.header["x-ratelimit-reset-" .. unit] = format("%dms", floor((held.limit - held.left) / held.rate * 1000))
end

local function say_limits()
  if not set.says_limits then return end
  if state.by_requests then say_limit(state.by_requests, "requests") end
  if state.by_tokens then say_limit(state.by_tokens, "tokens") end
end

-- Return the bucket that has too little for the request, and the seconds until it has enough.
local function lacking(now, tokens)
  if state.by_requests then
    fill(state.by_requests, now)
    if state.by_requests.level < 1 then return "requests", (1 - state.by_requests.level) / state.by_requests.rate end
  end
  if state.by_tokens then
    fill(state.by_tokens, now)
    local lack = tokens - state.by_tokens.level
    if lack > 0 then return "tokens", lack / state.by_tokens.rate end
  end
  return nil, 0
end

local function refuse(unit, wait_s)
  state.refused = state.refused + 1
  add(state.refusals, 1)
  ngx.status = 429
  ngx.header["retry-after"] = max(1, math.ceil(wait_s))
  local body = format(REFUSAL, unit .. " per minute", unit)
  ngx.header["content-length"] = #body
  say_limits()
  ngx.print(body)
end

local function wait_for_turn()
  local slots = state.slots  -- a request that outlives a reset gives its slot back to the time it came from
  if slots then
    local got, problem = slots:wait(LONGEST_QUEUE_S)
    if not got then ngx.log(ngx.ERR, "no slot: ", problem) end
  end
  if set.latency_s > 0 then ngx.sleep(set.latency_s) end
  if slots then slots:post(1) end
end

function endpoint.complete()
  ngx.req.read_body()
  local mine, now = state, ngx.now()
  if mine.received == 0 then mine.first_at = now end
  mine.received = mine.received + 1
  mine.last_at = now
  ngx.header["content-type"] = "application/json"
  local prompt_tokens, completion_tokens = floor((tonumber(ngx.var.content_length) or 1000) / 4), random(10, 50)
  local unit, wait_s = lacking(now, prompt_tokens + completion_tokens)
  if unit then return refuse(unit, wait_s) end
  take(mine.by_requests, 1)
  take(mine.by_tokens, prompt_tokens + completion_tokens)
  mine.in_flight = mine.in_flight + 1
  mine.most_in_flight = max(mine.most_in_flight, mine.in_flight)
  wait_for_turn()
  mine.in_flight = mine.in_flight - 1
  if mine ~= state then return ngx.exit(503) end
  mine.answered = mine.answered + 1
  mine.last_at = ngx.now()
  add(mine.answers, 1)
  add(mine.tokens, prompt_tokens + completion_tokens)
  local body = format(ANSWER, mine.answered, prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)
  ngx.header["content-length"] = #body
  say_limits()
  ngx.print(body)
end

local function listed(series)
  local found = {}
  for second = 1, state.seconds or 0 do found[second] = series[second] or 0 end
  return "[" .. table.concat(found, ",") .. "]"
end

function endpoint.stats()
  ngx.header["content-type"] = "application/json"
  ngx.say(format(
    '{"received":%d,"answered":%d,"refused":%d,"most_in_flight":%d,"first_at":%.3f,"last_at":%.3f,'
      .. '"answers":%s,"refusals":%s,"tokens":%s}',
    state.received, state.answered, state.refused, state.most_in_flight, state.first_at, state.last_at,
    listed(state.answers), listed(state.refusals), listed(state.tokens)
  ))
end

return endpoint
