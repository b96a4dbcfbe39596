"""Faster ways to attend, project and normalise on a CPU; the modules above say what they compute."""
