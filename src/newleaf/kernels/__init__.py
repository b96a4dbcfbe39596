"""Compiled loops for what PyTorch does in many passes over memory; Numba compiles them for the machine they run on, once."""
