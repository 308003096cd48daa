"""Interaction data: find, read, prepare, split, and cut into batches."""
