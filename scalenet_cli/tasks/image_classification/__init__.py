"""Image classification: labelled images, one class each."""
