"""Causal convolutions one event at a time."""
