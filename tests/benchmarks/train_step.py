"""What adapters add to a training step, against the arithmetic; and what a step keeps in memory.

    python tests/benchmarks/train_step.py [--models deit_tiny deit_small] [--seconds 120]
    python tests/benchmarks/train_step.py --memory [--models deit_base]

Time: forward, backward and AdamW of 24 blocks, float32, on the CPU. The floor trains norms alone;
`adapters` trains norms and adapters, `by modules` the same without the fused step; `all` trains 24
untied blocks. They take turns step by step in one process; a ratio is of a step and the floor's
step of the same turn. `quiet` is the median over the quarter of the turns that took least: two
threads that share their cores with another job measure the job; `--threads 1 --clock cpu` counts
processor time instead, which other jobs disturb little. Memory: see `memory_of`.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from scalenet_cli.models.expand_module import expand_module
from scalenet_cli.surgery.instance import AdjustedLinear

# glibc gives what a step frees back to the system, and the next step gets it page by page. Where
# that starts depends on sizes, so that it would hit the variants unequally.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(10**11), "MALLOC_MMAP_THRESHOLD_": str(10**11)}
FLOOR = "norms alone"
VARIANTS = {
    FLOOR: {"adapter": {"type": "none"}},
    "adapters": {"adapter": {"dim": 16}},
    "by modules": {"adapter": {"dim": 16}},
    "all": {"adapter": {"type": "none"}, "shared": {"weights": "copied"}},
}


def build(model: str, variant: str) -> nn.Module:
    """The scaled model, with gradients where the variant trains."""
    torch.manual_seed(0)
    base = timm.create_model(f"{model}_patch16_224")
    plan = {"version": 1, "mapping": "interpolate", "factor": 2, "drop_path": 0.0}
    scaled = expand_module(base, plan | VARIANTS[variant], family="vit").train()
    for key, parameter in scaled.named_parameters():
        parameter.requires_grad_(variant == "all" or "norm" in key or ".adapter." in key)
    if variant == "by modules":
        for module in scaled.modules():
            if isinstance(module, AdjustedLinear):
                # Whoever has a hook is called, so nothing is fused.
                module.core.register_forward_hook(lambda *_: None)
    return scaled


def training_step(model: nn.Module, batch_size: int) -> Callable[[], None]:
    """One step on random images; the optimizer lives on."""
    images = torch.randn(batch_size, 3, 224, 224)
    labels = torch.randint(0, 1000, (batch_size,))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def flops_of(step: Callable[[], None]) -> int:
    """As PyTorch counts: products, convolution, attention."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def compare_times(model: str, batch_size: int, seconds: float, clock: str) -> dict[str, object]:
    """Ratios to the floor, beside the ratio of FLOPs."""
    steps = {name: training_step(build(model, name), batch_size) for name in VARIANTS}
    flops = {name: flops_of(step) for name, step in steps.items()}
    for step in steps.values():
        step()
    turns: list[dict[str, float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(turns) < 4:
        turns.append({})
        for name, step in steps.items():
            started = CLOCKS[clock]()
            step()
            turns[-1][name] = CLOCKS[clock]() - started
    quiet = sorted(turns, key=lambda turn: sum(turn.values()))[: max(3, len(turns) // 4)]
    rows = {name: _row(name, FLOOR, turns, quiet, flops) for name in steps}
    rows["adapters / all"] = _row("adapters", "all", turns, quiet, flops)
    floor_ms = round(1e3 * statistics.median(turn[FLOOR] for turn in quiet), 1)
    return {"batch_size": batch_size, "turns": len(turns), "floor_ms": floor_ms, "ratios": rows}


def _row(
    name: str,
    base: str,
    turns: list[dict[str, float]],
    quiet: list[dict[str, float]],
    flops: dict[str, int],
) -> dict[str, object]:
    ratios = [turn[name] / turn[base] for turn in turns]
    best = min(turn[name] for turn in turns) / min(turn[base] for turn in turns)
    return {
        "arithmetic": round(flops[name] / flops[base], 3),
        "median": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "quiet": round(statistics.median(turn[name] / turn[base] for turn in quiet), 3),
        "of_fastest_steps": round(best, 3),
    }


def memory_of(model: str, variant: str, batch_size: int) -> dict[str, float]:
    """In GB: what a step has to keep, counted, and the peak of this process.

    Kept are parameters (a tied one once), gradients and two moments of what is trained, and the
    tensors that autograd saves. The peak holds the libraries too: their share is `before`.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    scaled = build(model, variant)
    parameters = {p.data_ptr(): p for p in scaled.parameters()}
    stored = sum(p.nbytes for p in parameters.values())
    trained = sum(p.nbytes for p in parameters.values() if p.requires_grad)
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        scaled(torch.randn(batch_size, 3, 224, 224)).sum().backward()
    scaled.zero_grad(set_to_none=True)
    step = training_step(scaled, batch_size)
    step()
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sizes = {
        "parameters": stored,
        "gradients_and_moments": 3 * trained,
        "parameters_gradients_moments": stored + 3 * trained,
        "activations": sum(saved.values()),
        "before": before,
        "peak": peak,
    }
    return {name: round(size / 1e9, 3) for name, size in sizes.items()}


def compare_memory(model: str, batch_size: int) -> dict[str, object]:
    """Each variant in a process of its own: a process's peak never falls."""
    results: dict[str, object] = {"batch_size": batch_size}
    for variant in ("adapters", "all"):
        command = [sys.executable, __file__, "--memory-of", model, variant, str(batch_size)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        results[variant] = json.loads(answer.stdout)
    return results


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="default: deit_tiny deit_small; deit_base")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120, help="per model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--memory", action="store_true", help="memory instead of time")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        model, variant, batch_size = options.memory_of
        print(json.dumps(memory_of(model, variant, int(batch_size))))
        return
    if not options.memory and not KEEP_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    results: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {options.threads} threads"
    }
    default = ["deit_base"] if options.memory else ["deit_tiny", "deit_small"]
    for model in options.models or default:
        if options.memory:
            results[model] = compare_memory(model, options.batch_size)
        else:
            size, seconds = options.batch_size, options.seconds
            results[model] = compare_times(model, size, seconds, options.clock)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
