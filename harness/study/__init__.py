"""What to compare: studies, their cells, their claims. Imports no torch."""
