"""Operators that models share; their naive references live in tests/models."""
