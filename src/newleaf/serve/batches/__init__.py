"""/v1/files and /v1/batches: records, the worker, and the requests that the server makes of itself."""
