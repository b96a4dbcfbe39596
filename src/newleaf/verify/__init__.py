"""Verification of generated answers; the sandbox runs generated programs against tests."""
