-- wrk's script of `cargo xtask peers serving`: posts the PNG file that PICTURE names, and prints what came of it on a line
-- of its own: answers, microseconds, p50 and p99 in microseconds, errors.
local file = assert(io.open(os.getenv("PICTURE"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["content-type"] = "image/png"
file:close()

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("figures %d %d %f %f %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), failed))
end
