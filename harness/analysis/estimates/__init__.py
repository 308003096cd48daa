"""Estimates with intervals: times, laws, speed-ups, memory, accuracy."""
