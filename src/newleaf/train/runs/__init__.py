"""The run folder: files, locks, checkpoints, metrics, trackers, and reading runs back."""
