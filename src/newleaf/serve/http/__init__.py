"""HTTP: connections, middleware, API keys, rate limits, strict JSON, event streams, logs, metrics."""
