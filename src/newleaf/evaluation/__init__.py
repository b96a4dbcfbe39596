"""How good a model is: tasks, their scores with what they are sure of, and reports. (`newleaf.evaluate` is
the function that runs them.)"""
