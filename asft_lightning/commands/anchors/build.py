"""``asft-lightning anchors build``: a file of anchors, from two checkpoints."""

from asft_lightning.anchors import Anchor, Gram, build_anchors_of
from asft_lightning.chat.template import Template
from asft_lightning.commands.anchors.show import show_with_picture, writable
from asft_lightning.commands.ways_on import after_anchors
from asft_lightning.modules import LoRAFineTuner
from asft_lightning.runtime.devices import usable_device
from asft_lightning.runtime.plain_data import PlainData
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

    An anchor says of a layer which updates take the model from its alignment: a run penalises those. A run builds its own
    where it is given no file.

    Args:
        pretrained: The checkpoints, base too for most anchors; a config of models/ given with --config says them.
        output: The file to write; upload it as ``anchors.safetensors`` to share it as a hub repository.
        lora: Arguments of peft.LoraConfig, for its target_modules; null for the paper's, q_proj and v_proj.
        anchors: The variants to sum; null for Gram.
        device: Where to compute, e.g. ``cuda``; null for the CPU.
        template: How prompts are written for the model, for anchors that run it.
        png: Where to write a picture of the spectra as well.
    """
    file, picture = writable(output), None if png is None else writable(png)
    where = None if device is None else usable_device(device)
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
    show_with_picture(built, picture)
    say(f"written to {file}", *after_anchors(file))


COMMAND = build
