"""One speed cell: paired stopwatch, memory, NVML."""
