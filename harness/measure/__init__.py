"""What runs inside a cell's child process."""
