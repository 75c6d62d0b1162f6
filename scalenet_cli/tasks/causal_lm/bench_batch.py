"""Random tokens for ``scalenet bench``."""

import torch
from torch.nn import functional as F

from scalenet_cli.errors import OptionError
from scalenet_cli.measure.throughput import Work
from scalenet_cli.tasks.requests import BenchRequest


def make_tokens(request: BenchRequest) -> Work:
    """Uniform tokens, each of which predicts the next one."""
    if request.channels_last:
        raise OptionError("--channels-last is for image models")
    # Equal tokens would all add to one row of the embedding's gradient.
    shape = (request.batch_size, request.size)
    tokens = torch.randint(request.num_outputs, shape, device=request.device)
    return Work(
        inputs={"input_ids": tokens, "use_cache": False},
        labels=tokens,
        loss=_next_token_loss,
        device=request.device,
        autocast=request.autocast,
    )


def _next_token_loss(logits_BNV: torch.Tensor, tokens_BN: torch.Tensor) -> torch.Tensor:
    logits_TV = logits_BNV[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits_TV.float(), tokens_BN[:, 1:].flatten())
