"""What is written to disk: one JSON file a cell, and what it says of machine and sources."""
