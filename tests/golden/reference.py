"""What users get from one commit, as digests, to be compared with what they get from another.

    python tests/golden/reference.py OUT.json [--workdir DIR]
    python tests/golden/reference.py --compare BEFORE.json AFTER.json

A refactoring changes none of it. Only the command line is used, so that the script runs at any
commit: copy it out of the repository, and run it with the interpreter of each checkout, on one
machine (training differs between kinds of processors). It expands a ViT, a Swin and a Llama, trains
each in several ways, one of them interrupted and resumed, and collects every file of bundles and
runs but times and pictures, and every report's JSON.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SOURCES: Final = """
import json, sys, timm, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

folder = Path(sys.argv[1])
SIZES = {
    "vit": ("vit_tiny_patch16_224", dict(img_size=16, patch_size=4, embed_dim=32, depth=3,
        num_heads=2, num_classes=5)),
    "swin": ("swin_tiny_patch4_window7_224", dict(img_size=32, patch_size=2, embed_dim=32,
        depths=[2, 2], num_heads=[2, 4], window_size=4, num_classes=5)),
}
for name, (architecture, sizes) in SIZES.items():
    torch.manual_seed(0)
    model = timm.create_model(architecture, **sizes)
    (folder / name).mkdir()
    save_file(dict(model.state_dict()), folder / name / "model.safetensors")
    config = {"architecture": architecture, "model_args": sizes}
    (folder / name / "config.json").write_text(json.dumps(config))
torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
    bos_token_id=1, eos_token_id=2)
LlamaForCausalLM(config).save_pretrained(folder / "llama")
words = {word: at for at, word in enumerate(["<pad>", "<s>", "</s>", "<unk>",
    *(f"w{number}" for number in range(4, 64))])}
backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>",
    unk_token="<unk>", pad_token="<pad>").save_pretrained(folder / "llama")
"""
DATA: Final = """
import json, sys
import numpy as np
from pathlib import Path
from PIL import Image

folder, random = Path(sys.argv[1]), np.random.default_rng(5)
for split, count in (("train", 40), ("validation", 20)):
    for index in range(count):
        target = folder / "images" / split / f"class{index % 5}"
        target.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 120, (16, 16, 3)) + 25 * (index % 5)
        Image.fromarray(pixels.astype(np.uint8)).save(target / f"{index:03d}.png")
rows = [{"instruction": f"w{a} w{b}", "output": f"w{b} w{a} w{a}"}
    for a, b in random.integers(4, 64, (48, 2)).tolist()]
(folder / "records.jsonl").write_text("\\n".join(map(json.dumps, rows)))
"""
PLANS: Final = {
    "copy": "start: copy\nadapter: {dim: 4}\n",
    "identity": "start: identity\nadapter: {dim: 4}\n",
    "lora": "start: average\nadapter: {type: lora, dim: 2, targets: all-linear}\n",
}
RUNS: Final = {
    "frozen": (),
    "all": ("--set", "train=all", "--set", "ema_decay=0.9", "--set", "accumulate=2"),
}
COMMON: Final = (
    "--batch-size", "8", "--max-steps", "20", "--workers", "0", "--device", "cpu", "--seed", "3",
    "--lr", "5e-3", "--eval-epochs", "1",
)  # fmt: skip
# Times and pictures; what does not depend on the results alone.
LEFT_OUT: Final = re.compile(r"timings\.jsonl|.*\.png|.*\.lock")
VOLATILE: Final = re.compile(r"seconds|per_second|time|memory|host|device|version|tool")


def main() -> None:
    """Collects, or compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    given = parser.parse_args()
    if given.compare:
        sys.exit(compare(*(json.loads(path.read_text()) for path in given.compare)))
    with tempfile.TemporaryDirectory(dir=given.workdir) as folder:
        found = dict(collect(Path(folder)))
    given.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{len(found)} digests in {given.output}")


def compare(before: dict[str, str], after: dict[str, str]) -> int:
    """Prints every difference; 1 where there is one."""
    different = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    for name in different:
        where = "changed" if name in before and name in after else "only in one"
        print(f"{where}: {name}")
    print(f"{len(different)} of {len(before.keys() | after.keys())} differ")
    return int(bool(different))


def collect(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of everything that is compared."""
    python(SOURCES, folder)
    python(DATA, folder)
    for kind in ("vit", "swin", "llama"):
        data = folder / ("records.jsonl" if kind == "llama" else "images")
        recipe = ("--set", "template=alpaca") if kind == "llama" else ("--set", "warmup_epochs=0")
        for plan, text in PLANS.items():
            file, bundle = folder / f"{plan}.yaml", folder / f"{kind}-{plan}"
            file.write_text(f"version: 1\nmapping: interpolate\nfactor: 2\n{text}")
            run("expand", folder / kind, "--plan", file, "-o", bundle)
            yield from digest_folder(bundle, folder)
            for command in ("inspect", "count-params", "flops", "verify"):
                yield f"{kind}-{plan} {command}", digest_report(run(command, bundle, "--json"))
        bundle = folder / f"{kind}-identity"
        for name, extra in RUNS.items():
            target = folder / f"{kind}-run-{name}"
            command = ("finetune", bundle, "--data", data, "-o", target, *COMMON, *recipe, *extra)
            report = (
                train_interrupted(command, target) if name == "all" else run(*command, "--json")
            )
            yield f"{kind}-run-{name} report", digest_report(report)
            yield from digest_folder(target, folder)
        again = folder / f"{kind}-run-frozen"
        yield f"{kind} eval", digest_report(run("eval", again, "--data", data, "--json"))
        report = run(
            "diagnose", again, "--against", bundle, "--data", data, "--limit", 8, "--json",
            "-o", folder / f"{kind}-report",
        )  # fmt: skip
        yield f"{kind} diagnose", digest_report(report)


def python(program: str, folder: Path) -> None:
    """Runs a program in a process of its own."""
    subprocess.run([sys.executable, "-c", program, folder], check=True, capture_output=True)


def arguments(command: tuple[Any, ...]) -> list[str]:
    """A command line of this interpreter's scalenet."""
    return [sys.executable, "-m", "scalenet_cli", *map(str, command)]


def run(*command: Any) -> str:
    """What a command prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(arguments(command), capture_output=True, text=True, env=environment)
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{ended.stderr}")
    return ended.stdout


def train_interrupted(command: tuple[Any, ...], target: Path) -> str:
    """Stops a run by a signal after its seventh step, within an epoch, and resumes it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        arguments(command), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            lines = target / "metrics.jsonl"
            if lines.exists() and lines.read_text().count('"loss"') >= 1:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.01)
    return run(*command, "--resume", "--json")


def digest_folder(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Every file of a bundle or run."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not LEFT_OUT.fullmatch(path.name):
            name = str(path.relative_to(root))
            if path.name == "run.json":  # it has the data's times
                leave = ("contents", "digest", "recipe")
                yield name, digest_report(with_former_names(path.read_text()), leave=leave)
            elif path.name == "recipe.yaml":
                text = with_former_names(path.read_text())
                yield name, hashlib.sha256(text.encode()).hexdigest()
            else:
                yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def with_former_names(text: str) -> str:
    """What a run says of its task, as version 0.1.0 called it."""
    names = {"image-classification": "images", "causal-lm": "language"}
    return re.sub("|".join(names), lambda found: names[found[0]], text)


def digest_report(text: str, leave: tuple[str, ...] = ()) -> str:
    """A report without times and places."""
    content = without_volatile(json.loads(text), leave)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def without_volatile(value: Any, leave: tuple[str, ...]) -> Any:
    """The value without what differs from run to run; folders by their last part."""
    if isinstance(value, dict):
        return {
            key: without_volatile(inner, leave)
            for key, inner in value.items()
            if not VOLATILE.search(key) and key not in leave
        }
    if isinstance(value, list):
        return [without_volatile(inner, leave) for inner in value]
    if isinstance(value, str) and os.sep in value:
        return re.sub(r"\S*/", "", value)
    return value


if __name__ == "__main__":
    main()
