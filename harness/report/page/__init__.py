"""The page: one HTML file that opens anywhere, beside the PDF and from the same analysis."""
