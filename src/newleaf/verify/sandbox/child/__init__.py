"""What runs in the sandbox's child processes: the test runner, the program runner, and their policies.

The processes start without newleaf on their import path, so that they start fast and hold nothing of it.
Modules here import each other relatively, and otherwise only the standard library.
"""
