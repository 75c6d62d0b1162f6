"""``scalenet diagnose``: how the blocks of a model share the work."""
