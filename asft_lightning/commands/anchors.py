"""``asft-lightning anchors build|show|diff``: anchors as files, apart from any run."""

from pathlib import Path
from typing import Any

import torch

from asft_lightning.anchors import Anchor, AnchorSet, Gram, build_anchors_of, measure_adapter
from asft_lightning.anchors.report import spectrum_picture
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules import LoRAFineTuner
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.runtime.reading import readable
from asft_lightning.runtime.terminal import say
from asft_lightning.weights.pretrained import Pretrained


def build(
    pretrained: Pretrained,
    output: str = "anchors.safetensors",
    lora: PlainData | None = None,
    anchors: list[Anchor] | None = None,
    device: str | None = None,
    template: Template = Template(),  # noqa: B008 (frozen)
    png: str | None = None,
) -> None:
    """Build the anchors of a model's LoRA targets, one matrix at a time, and write them to a file.

    Args:
        pretrained: The checkpoints; a config of models/ given with --config says them.
        output: The file to write; upload it as ``anchors.safetensors`` to share it as a hub repository.
        lora: Arguments of peft.LoraConfig, for its target_modules; null for the paper's, q_proj and v_proj.
        anchors: The variants to sum; null for Gram.
        device: Where to compute, e.g. ``cuda``; null for the CPU.
        template: How prompts are written for the model, for anchors that run it.
        png: Where to write a picture of the spectra as well.
    """
    file, picture = _writable(output), None if png is None else _writable(png)
    where = _usable(device)
    fine_tuner = LoRAFineTuner(pretrained, lora)
    built = build_anchors_of(
        pretrained,
        fine_tuner.with_adapter(pretrained.load_model_on_meta()),
        [Gram()] if anchors is None else anchors,
        lambda: fine_tuner.tokenizer,
        template,
        where,
    )
    built.save(file)
    _show(built, picture)
    say(f"written to {file}")


def show(anchors: str, png: str | None = None) -> None:
    """Print the spectrum of each module and what it means.

    Args:
        anchors: A file of anchors, or a folder or hub repository with an anchors.safetensors.
        png: Where to write a picture of the spectra as well.
    """
    picture = None if png is None else _writable(png)
    _show(AnchorSet.load(anchors), picture)


def diff(anchors: str, adapter: str) -> None:
    """Compare a trained adapter with anchors: how much of its update is aligned, orthogonal, and what it would cost.

    Args:
        anchors: A file of anchors, or a folder or hub repository with an anchors.safetensors.
        adapter: A LoRA adapter in PEFT's format: a folder or a hub id.
    """
    loaded = AnchorSet.load(anchors)
    say(str(readable(Path(adapter), lambda: measure_adapter(loaded, adapter), "an adapter")))


EXAMPLES = (
    "anchors build --config models/qwen-2-7b-instruct --output anchors.safetensors",
    "anchors show anchors.safetensors --png spectra.png",
)
COMMAND: dict[str, Any] = {"build": build, "show": show, "diff": diff}


def _writable(name: str) -> Path:
    """The file of this name, before anything is computed: one that cannot be written must not cost a build."""
    path = user_path(name)
    if path.is_dir() or not path.suffix:
        raise ConfigurationError(f"{path} must be the name of a file with its ending, .safetensors or .png. Add one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error}). Choose another folder.") from error
    return path


def _usable(device: str | None) -> torch.device | None:
    if device is None:
        return None
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"device {device!r} cannot be used here: {reason}. Leave it out for the CPU.") from error


def _show(anchors: AnchorSet, png: Path | None) -> None:
    say(str(anchors))
    if png is not None:
        spectrum_picture(anchors.terms, png)
