"""Building anchors from a sharded checkpoint pair of Llama-2-7B's layers: time and peak memory, beside its rivals."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from figures import Figure
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from synthetic import SHAPES, write_pair
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from asft_lightning import Gram, build_anchors

_LAYERS = 2


def measure(repeats: int, device: str) -> Iterator[Figure]:
    """Every run in a process of its own, so that its peak is its own; one run each."""
    with tempfile.TemporaryDirectory() as folder:
        pair = write_pair(Path(folder), _LAYERS)
        ran = {rival: _in_a_process(rival, pair, device) for rival in RUNS}
    ours = ran["anchors"]
    largest = max(d_out * d_in for d_out, d_in in SHAPES.values()) * 4
    peak = f"peak {ours['peak'] / 2**20:.0f} MiB = {(ours['peak'] - ours['kept']) / largest:.2f} × the largest matrix"
    what = f"anchors of {_LAYERS * len(SHAPES)} matrices"
    for rival, label in (
        ("read", "reading both checkpoints"),
        ("load", "loading both models"),
        ("svd", "torch.linalg.svd of each V"),
    ):
        notes = {
            "ours": f"{peak} + {ours['kept'] / 2**20:.0f} MiB kept",
            "rival": f"peak {ran[rival]['peak'] / 2**20:.0f} MiB",
        }
        yield Figure("build", what, label, ours["seconds"], ran[rival]["seconds"], notes)


def _in_a_process(run: str, pair: dict[str, Path], device: str) -> dict[str, float]:
    command = [sys.executable, __file__, run, str(pair["aligned"]), str(pair["base"]), device]
    figures: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return figures


def _targets() -> nn.Module:
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=_LAYERS, **sizes))
        return get_peft_model(model, LoraConfig(target_modules=[name.partition(".")[2] for name in SHAPES]))


def _anchors(aligned: Path, base: Path, device: str, model: nn.Module) -> float:
    return build_anchors(model, aligned, base, [Gram()], device=device, progress=False).num_bytes


def _read(aligned: Path, base: Path, *_: object) -> float:
    for shard in (shard for side in (aligned, base) for shard in sorted(side.glob("*.safetensors"))):
        shard.read_bytes()
    return 0


def _load(aligned: Path, base: Path, *_: object) -> float:
    return len(
        [
            {k: v.clone() for s in sorted(side.glob("*.safetensors")) for k, v in load_file(s).items()}
            for side in (aligned, base)
        ]
    )


def _svd(aligned: Path, base: Path, device: str, _: object) -> float:
    """One matrix of each shape, its time taken as often as the shape occurs: all fourteen would take half an hour."""
    first = [load_file(side / f"model-00001-of-{_LAYERS:05d}.safetensors") for side in (aligned, base)]
    extra = 0.0
    for shape in dict.fromkeys(SHAPES.values()):
        same = [name for name, other in SHAPES.items() if other == shape]
        start = time.perf_counter()
        sides = [side[f"model.layers.0.{same[0]}.weight"].to(device).float() for side in first]
        torch.linalg.svd(sides[0] - sides[1], full_matrices=False)
        extra += (time.perf_counter() - start) * (_LAYERS * len(same) - 1)
    return -extra


RUNS: dict[str, Callable[..., float]] = {
    "anchors": _anchors,
    "read": _read,
    "load": _load,
    "svd": _svd,
}


def _peak() -> int:
    """High-water mark of this process's resident memory in bytes; getrusage would begin with the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    torch.linalg.qr(torch.randn(64, 64) @ torch.randn(64, 64))  # the libraries' own threads and buffers are no part of it
    model = _targets()
    before, start = _peak(), time.perf_counter()
    kept = RUNS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], model)
    spent = time.perf_counter() - start - min(kept, 0)
    print(json.dumps({"seconds": spent, "peak": _peak() - before, "kept": max(kept, 0)}))
