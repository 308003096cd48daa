"""Reading files of interactions: what the formats share, from lines and columns to times and dense ids."""
