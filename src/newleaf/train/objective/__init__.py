"""What is learned: configuration, schedule, and the interface of an objective (data, loss, evaluation)."""
