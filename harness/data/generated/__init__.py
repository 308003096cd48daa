"""Data that are generated: the built-in set, and dependences planted at a known lag."""
