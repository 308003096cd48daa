"""How operators are compiled and chosen."""
