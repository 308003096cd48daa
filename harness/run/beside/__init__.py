"""Several cells of a sweep at a time, each on a GPU or a set of cores of its own. Imports no torch."""
