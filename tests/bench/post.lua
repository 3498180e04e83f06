-- For wrk: adds tasks, and says at the end what became of them in one line of JSON. With TASKS in
-- the environment each request is a batch of so many; TIMEOUT is that of each task.
local task = '{"num": 5, "timeout": ' .. (os.getenv("TIMEOUT") or "3600") .. '}'
local tasks = tonumber(os.getenv("TASKS") or "0")

wrk.method = "POST"
wrk.body = task
if tasks > 0 then
  wrk.body = '{"tasks": [' .. string.rep(task .. ", ", tasks - 1) .. task .. "]}"
end
wrk.headers["Content-Type"] = "application/json"

done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "micros": %d, "p50": %d, "p99": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
