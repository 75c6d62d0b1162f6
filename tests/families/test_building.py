"""A timm model without weights is the model with them, but for the values of its parameters."""

import pytest
import torch
from timm.models._manipulate import reinit_non_persistent_buffers

from scalenet_cli.families.timm_models import build_timm, create_timm
from scalenet_cli.surgery.assign import set_parameters
from tests.models import tiny_case


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "swin"])
def test_a_model_without_weights_has_everything_else(name: str) -> None:
    architecture = tiny_case(name).architecture
    blank, whole = build_timm(architecture), create_timm(architecture)
    shapes = {key: parameter.shape for key, parameter in whole.named_parameters()}
    assert {key: parameter.shape for key, parameter in blank.named_parameters()} == shapes
    assert all(parameter.is_meta for parameter in blank.parameters())
    # Masks are computed where the parameters are.
    set_parameters(blank, dict(whole.named_parameters()))
    reinit_non_persistent_buffers(blank)
    buffers = dict(whole.named_buffers())
    assert dict(blank.named_buffers()).keys() == buffers.keys()
    assert all(torch.equal(found, buffers[key]) for key, found in blank.named_buffers())
    assert str(blank) == str(whole)
    # Afterwards values are drawn again.
    assert torch.zeros(3, device="meta").uniform_().is_meta
    assert torch.zeros(3).fill_(2).sum() == 6
