"""One file a task: its recipe and its objective."""
