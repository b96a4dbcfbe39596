"""Compiled loops for what PyTorch does in many passes over memory; Numba compiles them for the machine they
run on, once."""

from newleaf.kernels.instruction_set import limit_instructions

limit_instructions()  # before any module here imports Numba
