"""``asft-lightning project-adapter``: a finished adapter, taken back to the alignment direction."""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from asft_lightning.commands.ways_on import after_projection
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.adapter_shapes import adapter_shapes
from asft_lightning.projections import Layer, ProjectedLayer, Projection, SafeLoRA, projection_table, record
from asft_lightning.runs.folder import PROJECTION
from asft_lightning.runtime.files import require_absent, user_path, whole_folder, write_json
from asft_lightning.runtime.reading import is_finite
from asft_lightning.runtime.terminal import say
from asft_lightning.weights.adapter_factors import read_factors
from asft_lightning.weights.locations import resolve_folder
from asft_lightning.weights.matrices import Weights, open_weights
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.targets import find_lora_factors

EXAMPLES = (
    "project-adapter runs/quickstart/adapter safer --config models/sandbox",
    "project-adapter runs/single/adapter safer --config models/qwen-2-7b-instruct --method OffAnchorShrinkage",
)

_WEIGHTS = "adapter_model.safetensors"
_LEFT_BEHIND = (_WEIGHTS, "adapter_model.bin", "README.md")
"""Not copied: the weights are others now, and a model card tells what was measured of those before."""


def project_adapter(adapter: str, output: str, pretrained: Pretrained, method: Projection | None = None) -> None:
    """Take a finished LoRA adapter back to the alignment direction, without training.

    Args:
        adapter: The adapter in PEFT's format: a folder or a hub id.
        output: The folder to write, which must not be there yet.
        pretrained: The checkpoints; a config of models/ given with --config says them.
        method: How: SafeLoRA, OffAnchorShrinkage, SafeMERGE or SafetyVector; null for SafeLoRA with the authors' 0.5.
    """
    target = user_path(output)
    require_absent(target)
    chosen = SafeLoRA(threshold=0.5) if method is None else method
    folder = resolve_folder(adapter)
    model = adapter_shapes(folder, pretrained)
    weights = open_weights(folder, model=model)
    factors = find_lora_factors(model)
    layers = [Layer(f.target, *read_factors(weights, f.target), f.scaling) for f in factors]
    projected = chosen.project(layers, chosen.open(pretrained))
    _write(folder, weights, target, chosen, projected)
    say(projection_table(projected), f"written to {target}", *after_projection(folder, target))


COMMAND = project_adapter


def _write(folder: Path, weights: Weights, target: Path, method: Projection, layers: list[ProjectedLayer]) -> None:
    """The adapter with its new factors, whole or not at all; everything else of it is copied."""
    factors = {
        f"{layer.name}.{factor}.weight": value
        for layer in layers
        if layer.changed
        for factor, value in (("lora_A", layer.a), ("lora_B", layer.b))
    }
    changed = {}
    for name, own_name in weights.names.items():
        value = weights[name]
        changed[own_name] = factors.get(name, value).to(value.dtype).contiguous()
        if not is_finite(changed[own_name]):
            raise ConfigurationError(
                f"a projected adapter must be finite, and {own_name} is not as {value.dtype}. Give an adapter in float32."
            )
    others = [file for file in folder.rglob("*") if file.is_file() and file.name not in _LEFT_BEHIND]
    with whole_folder(target) as new:
        for file in others:
            place = new / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)  # not copytree, whose error does not say why
        save_file(changed, new / _WEIGHTS, metadata={"format": "pt"})
        write_json(new / PROJECTION, record(method, layers))
