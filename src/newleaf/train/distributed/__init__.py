"""Several processes: what they agree on, sharding, and sharded state on disk."""
