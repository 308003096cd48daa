"""From the analysis file to figures and the PDF. Imports no torch."""
