"""Does this checkout still give the same outputs? Digests of what newleaf computes, saved before a
refactoring and compared after it."""
