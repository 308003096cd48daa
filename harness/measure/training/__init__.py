"""One training cell: train or fit, rank the held-out events, keep checkpoints."""
