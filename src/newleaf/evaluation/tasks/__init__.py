"""The built-in tasks, one file each: how a row becomes a request, and how its answer is scored."""
