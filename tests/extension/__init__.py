"""Toy entries of every table: what a new one has to bring, and that nothing else is needed."""
