"""Chat answers: parameters, sampling options, constraints, streamed deltas and usage."""
