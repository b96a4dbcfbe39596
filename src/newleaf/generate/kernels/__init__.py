"""What computes one step of a lowered program: kernels that Numba compiles for the machine they run on.

They are imported only when a program runs.
"""
