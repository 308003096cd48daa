"""From records to fits, comparisons and verdicts. Imports no torch."""
