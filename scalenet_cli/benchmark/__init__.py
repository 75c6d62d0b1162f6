"""``scalenet bench``: time and memory of a scaled model, beside its base."""
