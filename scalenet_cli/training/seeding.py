"""Seeds for whatever is random in a run, each derived from the recipe's and what it is for."""

import random
import signal

import numpy as np
import torch

from scalenet_cli.files.stop_requests import RUN_STOP_SIGNALS
from scalenet_cli.surgery.values import derive_seed


def seed_everything(seed: int, purpose: str) -> None:
    """Seeds the generators that augmentation and layers draw from, on every device."""
    torch.manual_seed(seed_host(seed, purpose))


def seed_host(seed: int, purpose: str) -> int:
    """The same for what runs on the CPU, in a process that loads data; returns the derived seed."""
    derived = derive_seed(seed, purpose)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    # torch.manual_seed also asks for CUDA, which costs 50 times as much per sample.
    torch.default_generator.manual_seed(derived)
    return derived


def prepare_worker(_: int) -> None:
    """Signals are for the main process, which finishes its step with the workers' help."""
    for request in RUN_STOP_SIGNALS:
        signal.signal(request, signal.SIG_IGN)
