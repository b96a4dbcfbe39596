"""A sandbox for untrusted Python programs, and for the tests that they are run against."""

from newleaf.verify.sandbox.run import Outcome, run_program, run_tests

__all__ = ["Outcome", "run_program", "run_tests"]
