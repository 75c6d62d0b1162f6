"""How a diagnosis says how far it is."""

from collections.abc import Callable

# What is being done, batches done, and batches in total.
Progress = Callable[[str, int, int], None]
