"""Sequence models and untrained references; see models.base for the contract."""
