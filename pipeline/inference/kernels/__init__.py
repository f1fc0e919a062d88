"""Functions that Numba compiles: how they are compiled, kept on disk and loaded."""
