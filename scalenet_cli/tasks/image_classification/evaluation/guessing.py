"""Whether an accuracy is more than what an answer that is always the same would have."""

from collections import Counter
from math import sqrt

from scalenet_cli.tasks.image_classification.data.splits import Split


def guessed_share(split: Split, num_classes: int) -> float:
    """The part of a split that is of its most frequent class.

    Where its targets cannot be listed without reading images: that of equally frequent classes.
    """
    targets = split.targets()
    if not targets:
        return 1 / num_classes
    return max(Counter(targets).values()) / len(targets)


def is_guessing(share: float, guessed: float, num_samples: int) -> bool:
    """Whether an accuracy is about that of guessing: at most a tenth of the way to a perfect one.

    Of many classes that would be a lot: there it is at most twice the guess, or three standard
    errors more than it.

    >>> is_guessing(0.14, 0.1, 2000), is_guessing(0.25, 0.1, 2000), is_guessing(0.05, 0.001, 50000)
    (True, False, False)
    """
    error = sqrt(guessed * (1 - guessed) / num_samples)
    return share - guessed <= min((1 - guessed) / 10, max(guessed, 3 * error))
