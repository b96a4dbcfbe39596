"""The training loop: steps, optimizer, validation, checkpoints, recovery, and how a run finishes."""
