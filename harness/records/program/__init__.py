"""What some functions of a project execute, and a digest of it that no change of spelling changes."""
