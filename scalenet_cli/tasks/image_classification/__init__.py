"""Image classification: labelled images, one class each."""

from typing import Final

NAME: Final = "image-classification"
