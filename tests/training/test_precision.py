"""Types of tensors in training: the numbers are autocast's, and less is held for them."""

from typing import Any

import pytest
import torch
from torch import nn

from scalenet_cli.measure.throughput import logits_of
from scalenet_cli.surgery.groups import freeze, group_parameters
from scalenet_cli.training.precision import set_types
from tests.laws.building import make_model, randomise_instances
from tests.models import tiny_case
from tests.training.runs import slow

Saved = dict[int, torch.UntypedStorage]


def step(model: nn.Module, inputs: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any, Saved]:
    """Logits, gradients, and what autograd keeps beside parameters, of one pass under autocast."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: Saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype):
            logits = logits_of(model(**inputs))
        loss = logits.float().square().mean()
    loss.backward()
    return logits, {k: p.grad for k, p in model.named_parameters() if p.grad is not None}, saved


def bytes_of(saved: Saved) -> int:
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.sample(3)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float16)])
@pytest.mark.parametrize("adapter", ["parallel", slow("lora")])
@pytest.mark.parametrize("name", ["vit_variant", "swin", "llama_tied", "qwen3", "gemma3"])
def test_the_bits_are_autocasts(
    name: str, adapter: str, dtype: torch.dtype, stored: torch.dtype
) -> None:
    found = []
    for chosen in (None, dtype):
        case = tiny_case(name)
        model = make_model(case, adapter={"type": adapter, "dim": 4})
        randomise_instances(model, case.model)
        model.to(stored)
        freeze(model, group_parameters(model, case.family), ("norms", "adapters"))
        set_types(model, chosen)
        found.append(step(model.train(), case.inputs, dtype))
    (logits, grads, saved), (narrow_logits, narrow_grads, narrow_saved) = found
    assert torch.equal(logits, narrow_logits)
    assert grads.keys() == narrow_grads.keys()
    assert all(torch.equal(grads[key], narrow_grads[key]) for key in grads)
    assert bytes_of(narrow_saved) < bytes_of(saved)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_what_is_trained_is_in_float32(stored: torch.dtype) -> None:
    case = tiny_case("llama_tied")
    model: Any = make_model(case).to(stored)
    freeze(model, group_parameters(model, case.family), ("norms", "adapters"))
    set_types(model, torch.bfloat16)
    types = {key: parameter.dtype for key, parameter in model.named_parameters()}
    # What an embedding returns would be rounded, if it were not stored so.
    assert types["model.embed_tokens.weight"] == stored
    assert model.model.embed_tokens(case.inputs["input_ids"]).dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    del types["model.embed_tokens.weight"]
    for key, dtype in types.items():
        assert (dtype == torch.float32) == ("norm" in key or "adapter" in key), key
    assert all(buffer.dtype == torch.float32 for buffer in model.buffers())


def test_an_embedding_that_scales_is_in_float32() -> None:
    case = tiny_case("gemma3")
    model: Any = make_model(case).to(torch.bfloat16)
    freeze(model, group_parameters(model, case.family), ("norms",))
    set_types(model, torch.bfloat16)
    assert model.model.embed_tokens.weight.dtype == torch.float32


def test_an_untied_head_is_narrow_only_if_it_is_frozen() -> None:
    for train, wanted in ((("norms",), torch.bfloat16), (("norms", "head"), torch.float32)):
        case = tiny_case("llama")
        model: Any = make_model(case)
        freeze(model, group_parameters(model, case.family), train)  # type: ignore[arg-type]
        set_types(model, torch.bfloat16)
        assert model.lm_head.weight.dtype == wanted


@pytest.mark.parametrize("train", [("norms", "adapters"), ("shared", "embeddings", "head")])
def test_without_autocast_all_is_in_float32(train: Any) -> None:
    case = tiny_case("vit")
    model = make_model(case).to(torch.float16)
    ties = [id(parameter) for parameter in model.parameters()]
    freeze(model, group_parameters(model, case.family), train)
    set_types(model, None)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert [id(parameter) for parameter in model.parameters()] == ties
