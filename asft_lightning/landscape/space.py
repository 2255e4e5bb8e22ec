"""Space: which of a model's weights are moved, by their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from torch import nn

from asft_lightning.errors import ConfigurationError
from asft_lightning.modules import LoRAFineTuner
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.weights.pretrained import Pretrained

Which = Literal["targets", "all"]


@dataclass(frozen=True)
class Space:
    """The weights that are moved.

    Args:
        pretrained: The checkpoints.
        model: The model without its weights, which tells names.
        shapes: {canonical name of a weight: its shape}, in the model's order.
    """

    pretrained: Pretrained
    model: nn.Module
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, pretrained: Pretrained, which: Which = "targets", lora: PlainData | None = None) -> Self:
        """The space of a model.

        Args:
            pretrained: The checkpoints.
            which: ``targets`` for the matrices that LoRA would adapt, ``all`` for every weight.
            lora: Arguments of ``peft.LoraConfig``, for its target_modules; None for the paper's, q_proj and v_proj.

        Raises:
            ConfigurationError: If the model is to be loaded in 4 bits, or ``lora`` goes with ``all``.
        """
        if pretrained.load_in_4bit:
            raise ConfigurationError(
                "weights that are moved must be whole, got pretrained.load_in_4bit true. Leave it out; bfloat16 will do."
            )
        if which == "all" and lora is not None:
            raise ConfigurationError(f"lora says which weights are targets, got it with all of them: {lora}. Leave it out.")
        model = pretrained.load_model_on_meta()
        shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        if which == "all":
            return cls(pretrained, model, shapes)
        names = [f"{layer}.weight" for layer in LoRAFineTuner(pretrained, lora).trained_layers()]
        return cls(pretrained, model, {name: shapes[name] for name in names})
