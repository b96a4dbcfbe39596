"""Running strangers' programs, and judging them by tests that they cannot reach."""

from newleaf.verify.sandbox.run import Outcome, run_program, run_tests

__all__ = ["Outcome", "run_program", "run_tests"]
