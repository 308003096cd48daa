"""Benchmarking and scaling analysis of sequence models: study, cells, records, verdicts, report."""

__version__ = "0.1.0"
