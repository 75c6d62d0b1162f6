"""Records of text: where they lie, and how they become tokens."""
