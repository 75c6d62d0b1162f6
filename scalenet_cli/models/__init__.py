"""From a reference to a model: described without weights, loaded with them, saved again."""
