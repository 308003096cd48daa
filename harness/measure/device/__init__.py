"""The GPU, through NVML."""
