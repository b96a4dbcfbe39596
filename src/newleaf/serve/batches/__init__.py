"""/v1/files and /v1/batches: stores, the batch worker, and its internal requests."""
