"""Rules about cost at a length: memory, no loss of speed, and serving single events."""
