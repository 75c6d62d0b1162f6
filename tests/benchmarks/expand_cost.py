"""What expanding costs, against copying the same files and reading them once more through sha256.

    python tests/benchmarks/expand_cost.py WORKDIR [--rounds 5] [--only deit_base llama_1b startup]

Both sides run as processes of their own, alternately, with fsync, on files in the page cache; wall
time, peak resident memory and bytes written are measured from outside. WORKDIR needs 8 GB.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

PLAN = "version: 1\nmapping: interpolate\nfactor: 2\n"
SCALENET = [sys.executable, "-m", "scalenet_cli"]

COPY_AND_HASH = """
import hashlib, os, shutil, sys
from pathlib import Path
source, target = Path(sys.argv[1]), Path(sys.argv[2])
files = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
target.mkdir()
for path in files:
    shutil.copyfile(path, target / path.name)
    with open(target / path.name, "rb") as file:
        os.fsync(file.fileno())
for path in files:
    with open(target / path.name, "rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
"""
MAKE_DEIT = """
import sys, timm, torch
torch.manual_seed(0)
torch.save({"model": timm.create_model("deit_base_patch16_224").state_dict()}, sys.argv[1])
"""
MAKE_LLAMA = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
config = LlamaConfig(vocab_size=128256, hidden_size=2048, intermediate_size=8192,
    num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
    tie_word_embeddings=True, max_position_embeddings=131072)
LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size="1GB")
"""


def measure(command: list[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of one process."""
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        assert process.stderr is not None
        raise SystemExit(process.stderr.read().decode())
    return seconds, usage.ru_maxrss * 1024


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def compare(source: Path, workdir: Path, plan: Path, rounds: int) -> dict[str, object]:
    """Alternates both sides; the ratio is of each pair."""
    copied, expanded = workdir / "copied", workdir / "expanded"
    ratios, ours, theirs, memory = [], [], [], []
    for _ in range(rounds):
        seconds, _ = measure([sys.executable, "-c", COPY_AND_HASH, str(source), str(copied)])
        theirs.append(seconds)
        shutil.rmtree(copied)
        command = [*SCALENET, "expand", str(source), "--plan", str(plan), "-o", str(expanded)]
        seconds, peak = measure(command)
        ours.append(seconds)
        memory.append(peak)
        ratios.append(ours[-1] / theirs[-1])
        written = size_of(expanded)
        shutil.rmtree(expanded)
    return {
        "source_bytes": size_of(source),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "expand_seconds_median": round(statistics.median(ours), 2),
        "copy_and_hash_seconds_median": round(statistics.median(theirs), 2),
        "peak_memory_gb": round(max(memory) / 1e9, 3),
        "written_over_source": round(written / size_of(source), 4),
    }


def startup(workdir: Path, plan: Path, rounds: int) -> dict[str, object]:
    """Commands that need no torch; console script, median and range in seconds."""
    bundle = workdir / "bundle"
    source = ["timm:deit_tiny_patch16_224", "--random-weights"]
    measure([*SCALENET, "expand", *source, "--plan", str(plan), "-o", str(bundle)])
    script = str(Path(sys.executable).parent / "scalenet")
    results: dict[str, object] = {}
    for arguments in (["--help"], ["check", str(plan)], ["count-params", str(bundle)]):
        times = [measure([script, *arguments])[0] for _ in range(3 * rounds)]
        results[arguments[0]] = {
            "median": round(statistics.median(times), 3),
            "range": [round(min(times), 3), round(max(times), 3)],
        }
    shutil.rmtree(bundle)
    return results


def main() -> None:
    """Makes the sources once, then measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["startup", "deit_base", "llama_1b"])
    options = parser.parse_args()
    workdir = options.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    plan = workdir / "plan.yaml"
    plan.write_text(PLAN)
    results: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}"
    }
    if "startup" in options.only:
        results["startup_seconds"] = startup(workdir, plan, options.rounds)
    for name, source, script in (
        ("deit_base", workdir / "deit_base.pth", MAKE_DEIT),
        ("llama_1b", workdir / "llama_1b", MAKE_LLAMA),
    ):
        if name in options.only:
            if not source.exists():
                measure([sys.executable, "-c", script, str(source)])
            results[name] = compare(source, workdir, plan, options.rounds)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
