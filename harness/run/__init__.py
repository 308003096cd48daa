"""Running cells: sweep, supervisor, and the children that measure."""
