"""After-training: a model that exists learns a task, on the loop that pretraining uses."""
