"""Numbers about a model, with their conventions."""
