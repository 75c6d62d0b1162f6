"""Studies: what is compared, what it costs, and what becomes of each cell."""
