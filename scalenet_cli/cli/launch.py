"""``--gpus N``: the same command once more, as N ranks under torchrun."""

import os
import sys
from typing import NoReturn


def launch(gpus: int) -> NoReturn:
    """Becomes torch.distributed.run of this command line, so that signals reach it.

    Raises:
        DeviceUnavailable: the machine has not so many GPUs.
        OptionError: it is one of several ranks already.
        LaunchUnclear: it may be.
    """
    import torch

    from scalenet_cli.errors import DeviceUnavailable, OptionError
    from scalenet_cli.training.world import this_world

    if "LOCAL_RANK" in os.environ or this_world().num_ranks > 1:
        raise OptionError(
            "--gpus starts torchrun, but a launcher has started this process already",
            hint="leave out --gpus",
        )
    found = torch.cuda.device_count()
    if found < gpus:
        raise DeviceUnavailable(
            f"--gpus {gpus} was asked for, but PyTorch finds {found} here",
            hint="for several processes on the CPU: torchrun --nproc-per-node N -m scalenet_cli ..."
            " --device cpu",
        )
    arguments = without_option(sys.argv[1:], "--gpus")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={gpus}", "-m", "scalenet_cli", *arguments,
    ]  # fmt: skip
    os.execv(sys.executable, command)


def without_option(arguments: list[str], name: str) -> list[str]:
    """A command line without one option and its value.

    >>> without_option(["finetune", "--gpus", "8", "out/", "--gpus=2"], "--gpus")
    ['finetune', 'out/']
    """
    left: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != name and not argument.startswith(f"{name}="):
            left.append(argument)
        skip = not skip and argument == name
    return left
