"""What runs in the sandbox's own processes.

They are started without newleaf on their path, so that they start at once and hold nothing of it: modules
here import one another relatively, and nothing but the standard library.
"""
