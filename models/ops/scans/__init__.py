"""Linear recurrences as scans."""
