"""What one token costs: vector code that Numba compiles for the machine it runs on. Imported only when a
program is run."""
