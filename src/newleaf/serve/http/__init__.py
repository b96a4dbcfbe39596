"""HTTP itself: connections, middleware, keys, rate limits, strict JSON, server-sent events, logs and
metrics."""
