"""The paper's untied baselines, tensor by tensor, against hand-made ones."""

import pytest
import torch

from scalenet_cli.surgery.ties import keys_by_parameter
from tests.laws.building import make_model
from tests.models import ARCHITECTURES, TinyCase

every_case = pytest.mark.parametrize("case", ARCHITECTURES, indirect=True)


def new_blocks(case: TinyCase, weights: str) -> tuple[torch.nn.Module, torch.nn.Module, list[str]]:
    """Old and new container of the first stage, and the tensor names of a block."""
    model = make_model(
        case,
        mapping="stack",
        adapter={"type": "none"},
        shared={"scope": "all", "weights": weights},
    )
    path = case.family.stages(case.model)[0].path
    old, new = case.model.get_submodule(path), model.get_submodule(path)
    assert not [k for k in keys_by_parameter(model).values() if len(k) > 1 and "head" not in k[-1]]
    return old, new, [key for key, _ in new[0].named_parameters()]


def tensor(block: torch.nn.Module, key: str) -> torch.Tensor:
    """A tensor of an original or a prepared block; Swin's table moves into a module."""
    shared = "attn.shared_relative_position_bias_table.table"
    if key == shared and key not in dict(block.named_parameters()):
        key = "attn.relative_position_bias_table"
    return block.get_parameter(key)


@every_case
def test_copied_blocks_equal_their_sources(case: TinyCase) -> None:
    old, new, keys = new_blocks(case, "copied")
    for source in range(len(old)):
        for key in keys:
            copied = tensor(new[len(old) + source], key)
            assert torch.equal(copied, tensor(old[source], key)), key
            assert copied is not tensor(old[source], key)


@every_case
def test_averaged_blocks_are_the_mean_of_two_pretrained_ones(case: TinyCase) -> None:
    old, new, keys = new_blocks(case, "averaged")
    pairs = [(a, b) for a in range(len(old)) for b in range(a + 1, len(old))]
    for position in range(len(old), len(new)):
        fitting = [
            pair
            for pair in pairs
            if all(
                torch.allclose(
                    tensor(new[position], key),
                    (tensor(old[pair[0]], key) + tensor(old[pair[1]], key)) / 2,
                    atol=1e-6,
                )
                for key in keys
            )
        ]
        assert len(fitting) == 1


@every_case
def test_random_blocks_are_drawn_as_the_library_draws_them(case: TinyCase) -> None:
    old, new, keys = new_blocks(case, "random")
    gemma = case.name == "gemma3"
    for key in keys:
        fresh = tensor(new[len(old)], key)
        assert not torch.equal(fresh, tensor(old[0], key)) or key.startswith("ls"), key
        if fresh.ndim > 1:
            assert 0.012 < fresh.std() < 0.028, key
        elif key.endswith("bias"):
            assert not fresh.any(), key
        elif "norm" in key:
            assert torch.equal(fresh, torch.full_like(fresh, 0.0 if gemma else 1.0)), key


@every_case
def test_random_weights_follow_the_seed(case: TinyCase) -> None:
    one, two = (new_blocks(case, "random")[1] for _ in range(2))
    for key, parameter in one.named_parameters():
        assert torch.equal(parameter, two.get_parameter(key))
