"""Use cases as typed functions that return reports: the Python API, and what the CLI calls."""
