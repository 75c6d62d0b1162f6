"""Decoders at full size: memory of loading and of expanding, and real weights with tokenizers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from scalenet_cli import expand_checkpoint, load, verify
from scalenet_cli.families import family
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.plan.recipes import recipe_path
from tests.laws.building import make_plan, sources_of, write_plan
from tests.laws.oracle import run_in_mapping_order
from tests.models import TinyCase
from tests.slow.test_full_size import LLAMA_1B
from tests.slow.test_real_weights import asset

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sets resource limits")


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: pytest keeps those of its last runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


LOAD = """
import json, sys
from pathlib import Path

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split(":") for line in lines)
    names = ("VmHWM", "RssAnon", "RssFile")
    return [int(sizes[name].split()[0]) * 1024 for name in names]

import torch, transformers
from transformers import LlamaForCausalLM
import scalenet_cli
torch.set_num_threads(1)
readings = [resident()]
model = scalenet_cli.load(sys.argv[1])
readings.append(resident())
with torch.no_grad():
    model(torch.arange(16)[None])
readings.append(resident())
num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps([readings, num_bytes]))
"""


@linux
@pytest.mark.slow
def test_a_bfloat16_bundle_is_loaded_without_a_second_copy(roomy: Path) -> None:
    """The tensors stay in the file's own pages: clean, shared between processes, of one copy.

    RssFile are pages of files, RssAnon is memory of the process's own. One forward pass touches
    every tensor, so every page of the file is resident once, and no tensor anywhere else.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**LLAMA_1B), dtype=torch.bfloat16)
    model.save_pretrained(roomy / "source", max_shard_size="1GB")
    del model
    plan = roomy / "plan.yaml"
    plan.write_text("version: 1\nmapping: interpolate\nfactor: 2\n")
    expand_checkpoint(roomy / "source", plan, roomy / "out")
    child = [sys.executable, "-c", LOAD, str(roomy / "out")]
    output = subprocess.run(child, check=True, capture_output=True, text=True).stdout
    ((start, loaded, run), num_bytes) = json.loads(output)
    print(f"{num_bytes=} {start=} {loaded=} {run=}")
    assert num_bytes > 2.5e9
    assert loaded[0] - start[0] < 0.1 * num_bytes  # digests are taken 4 MiB at a time
    assert run[0] - start[0] < 1.05 * num_bytes
    assert run[1] - start[1] < 0.05 * num_bytes


RESIDENT = 1_000_000_000
RESERVED = 1_200_000_000
EXPAND = f"""
import json, resource, sys
# Heap, anonymous maps and thread stacks; pages of files, such as torch's libraries, are not in it.
resource.setrlimit(resource.RLIMIT_DATA, ({RESERVED}, {RESERVED}))
from scalenet_cli import expand_checkpoint
report = expand_checkpoint(*sys.argv[1:4])
# Not getrusage: its peak begins with that of the process that started this one.
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([report.bundle_bytes, int(peak) * 1024]))
"""
LARGE: dict[str, Any] = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 23,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
}


def spread(shard_bytes: int) -> list[dict[str, Any]]:
    """The headers of a checkpoint in shards, each of about that size."""
    model = family("llama").build(Architecture("llama", "llama", LARGE))
    shards: list[dict[str, Any]] = [{}]
    at = 0
    for key, parameter in model.named_parameters():
        end = at + 2 * parameter.numel()
        if end > shard_bytes:
            shards.append({})
            at, end = 0, end - at
        place = {"shape": list(parameter.shape), "data_offsets": [at, end]}
        shards[-1][key] = {"dtype": "BF16", **place}
        at = end
    return shards


def write_sparse(folder: Path, shard_bytes: int) -> int:
    """A checkpoint of which nearly every page is a hole; returns its bytes.

    Each tensor begins with its own name, so that no two of them have one digest.
    """
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LARGE))
    weight_map = {}
    for number, shard in enumerate(spread(shard_bytes)):
        name = f"model-{number}.safetensors"
        weight_map |= dict.fromkeys(shard, name)
        header = json.dumps(shard).encode()
        with (folder / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            start = file.tell()
            for key, entry in shard.items():
                file.seek(start + entry["data_offsets"][0])
                file.write(key.encode())
            file.truncate(start + max(entry["data_offsets"][1] for entry in shard.values()))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@linux
@pytest.mark.slow
def test_a_checkpoint_of_ten_times_the_memory(roomy: Path) -> None:
    """Expanded by a process that may ask for 1.2 GB, of which torch has 0.9 before any work.

    RLIMIT_DATA is enforced: a request that would not fit fails, even if its pages were never
    touched. Linux enforces no limit on resident pages (RLIMIT_RSS does nothing), so their peak is
    measured and compared; it has torch's libraries in it. RLIMIT_AS would count what is mapped
    and never resident: torch's libraries alone are more than 3 GB of that.

    The bytes go through read and write, 4 MiB at a time for each of four threads, and are hashed
    on that way; nothing is mapped. Embedding and head have 1.05 GB each.
    """
    source = roomy / "source"
    num_bytes = write_sparse(source, 4_000_000_000)
    assert num_bytes > 10 * RESERVED > 10 * RESIDENT
    plan = roomy / "plan.yaml"
    plan.write_text("version: 1\nmapping: interpolate\nfactor: 2\nstart: identity\n")
    child = [sys.executable, "-c", EXPAND, str(source), str(plan), str(roomy / "out")]
    output = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    written, peak = json.loads(output)
    print(f"{num_bytes=} {written=} {peak=}")
    assert peak <= RESIDENT
    assert num_bytes < written < 1.03 * num_bytes
    num_tensors = 3 + 9 * LARGE["num_hidden_layers"]
    assert verify(roomy / "out", source=str(source)).compared_tensors == num_tensors


REAL = {"stories15m": "language/stories15m_x2", "smollm2": "language/smollm2_x2"}


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> TinyCase:
    folder = asset(request.param)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = torch.randint(3, 30_000, (2, 40), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "use_cache": False}
    architecture = Architecture("llama", "llama")
    return TinyCase(request.param, architecture, family("llama"), model, inputs)


@pytest.mark.assets
@pytest.mark.parametrize("mapping", ["interpolate", "stack"])
@pytest.mark.parametrize("start", ["copy", "identity"])
def test_logits_are_those_of_the_unmodified_layers(
    real: TinyCase, mapping: str, start: str, tmp_path: Path
) -> None:
    plan = make_plan(real, mapping=mapping, start=start, adapter={"dim": 16})
    source = asset(real.name)
    expand_checkpoint(source, write_plan(plan, tmp_path / "plan.yaml"), tmp_path / "out")
    found = real.logits(load(tmp_path / "out"))
    if start == "identity":
        assert torch.equal(found, real.logits(real.model))
    else:
        assert torch.equal(found, run_in_mapping_order(real, sources_of(real, plan)))
        assert not torch.equal(found, real.logits(real.model))


def answer(model: nn.Module, asked: dict[str, torch.Tensor], **options: Any) -> Any:
    torch.manual_seed(0)
    return model.generate(
        **asked, max_new_tokens=24, output_logits=True, return_dict_in_generate=True, **options
    )


@pytest.mark.assets
def test_tokenizer_cache_and_ties_of_a_real_bundle(real: TinyCase, tmp_path: Path) -> None:
    """From the shipped recipe; prompts of two lengths in one batch, greedy and sampled."""
    source, out = asset(real.name), tmp_path / "out"
    report = expand_checkpoint(source, recipe_path(REAL[real.name]), out)
    assert verify(out, source=str(source)).compared_with == str(source)
    model = load(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert report.parameters.stored == sum(p.numel() for p in model.parameters())
    # transformers finds the tokenizer's class through the config, where the folder does not say.
    ours = AutoTokenizer.from_pretrained(out, config=model.config, padding_side="left")
    theirs = AutoTokenizer.from_pretrained(source, padding_side="left")
    prompts = ["Once upon a time", "There was a little dog who wanted to"]
    if theirs.chat_template:
        prompts = [
            theirs.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
            for text in prompts
        ]
        assert ours.chat_template == theirs.chat_template
    ours.pad_token = ours.pad_token or ours.eos_token
    asked = dict(ours(prompts, return_tensors="pt", padding=True))
    asked.pop("token_type_ids", None)
    assert ours(prompts).input_ids == theirs(prompts).input_ids
    assert (asked["attention_mask"][0] == 0).any()
    cached, plain = (answer(model, asked, do_sample=False, use_cache=c) for c in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for one, other in zip(cached.logits, plain.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    sampled = [answer(model, asked, do_sample=True, use_cache=c).sequences for c in (True, False)]
    assert torch.equal(*sampled)
    base = answer(real.model, asked, do_sample=False)
    assert torch.equal(base.sequences, cached.sequences)
    print(ours.batch_decode(cached.sequences, skip_special_tokens=True))
