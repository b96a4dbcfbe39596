"""What runs a network for generation: executors, lowered programs and their thread pool, chunked prefill."""
