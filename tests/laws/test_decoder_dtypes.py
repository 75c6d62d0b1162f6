"""Decoders in bfloat16: a loaded bundle against transformers' own loading of its source."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from scalenet_cli import expand_checkpoint, load
from tests.laws.building import make_plan, write_plan
from tests.models import TinyCase


@pytest.mark.parametrize("case", ["llama", "llama_tied", "qwen3", "gemma3"], indirect=True)
def test_a_bfloat16_bundle_equals_from_pretrained(case: TinyCase, tmp_path: Path) -> None:
    source = tmp_path / "source"
    case.model.to(torch.bfloat16).save_pretrained(source)
    plan = write_plan(make_plan(case, start="identity"), tmp_path / "plan.yaml")
    expand_checkpoint(source, plan, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    loaded = load(tmp_path / "out")
    tokens = {"input_ids": torch.randint(3, 64, (2, 60)), "use_cache": False}
    with torch.no_grad():
        assert torch.equal(loaded(**tokens).logits, base(**tokens).logits)
    buffers = dict(loaded.named_buffers())
    for key, buffer in base.named_buffers():
        assert buffers[key].dtype == buffer.dtype
        assert torch.equal(buffers[key], buffer), key
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
