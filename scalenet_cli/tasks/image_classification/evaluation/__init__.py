"""Accuracy and loss of image classifiers."""
