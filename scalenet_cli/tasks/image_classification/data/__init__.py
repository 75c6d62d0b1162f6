"""Labelled images: where they lie, how they are read and prepared."""
