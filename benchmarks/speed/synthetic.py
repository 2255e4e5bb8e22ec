"""Alignment directions of Llama-2-7B's shapes, and a checkpoint pair that has them, without a download."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 4096),
    "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
"""{projection: (d_out, d_in)} of one layer."""
_RANK = 256


def direction(shape: tuple[int, int], device: str = "cpu", seed: int = 0) -> Tensor:
    """V (d_out, d_in), float32, with σ_i = i^(−1/2) for the first 256: ‖V‖_F = 2.5, and some 90 directions are kept."""
    generator, rank = torch.Generator().manual_seed(seed), min(_RANK, *shape)
    left, right = (torch.linalg.qr(torch.randn(d, rank, generator=generator)).Q.to(device) for d in shape)
    return (left * torch.arange(1, rank + 1, device=device) ** -0.5) @ right.mT


def write_pair(folder: Path, layers: int) -> dict[str, Path]:
    """{side: directory} of sharded bfloat16 checkpoints, a shard a layer; base weights as at a usual initialisation."""
    directions = {shape: direction(shape) for shape in set(SHAPES.values())}
    folders = {side: folder / side for side in ("aligned", "base")}
    index: dict[str, str] = {}
    for path in folders.values():
        path.mkdir(parents=True)
    for layer in range(layers):
        file = f"model-{layer + 1:05d}-of-{layers:05d}.safetensors"
        sides: dict[str, dict[str, Tensor]] = {side: {} for side in folders}
        for projection, shape in SHAPES.items():
            name = f"model.layers.{layer}.{projection}.weight"
            base = 0.02 * torch.randn(shape)
            sides["base"][name], sides["aligned"][name] = base.bfloat16(), (base + directions[shape]).bfloat16()
            index[name] = file
        for side, path in folders.items():
            save_file(sides[side], path / file, {"format": "pt"})
    for path in folders.values():
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folders
