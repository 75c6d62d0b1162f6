"""``scalenet compare``: arms of one source, trained side by side over seeds."""
