"""Image classification as a task of the training engine: data, augmentation, loss, accuracy."""
