"""Which of a plain model's own weights are trained: linear layers by name, and what is named beside them."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from asft_lightning.errors import ConfigurationError

AllLinear = Literal["all-linear"]
"""PEFT's word for every linear layer but the head."""


def train_weights(model: PreTrainedModel, targets: Sequence[str] | AllLinear, also_train: Sequence[str] = ()) -> None:
    """Make exactly some parameters of a model trainable.

    Args:
        model: The model.
        targets: Names of linear layers, or ``all-linear``; a name may be any run of whole parts of a layer's own,
            ``q_proj`` or ``layers.0.self_attn``.
        also_train: Names of modules or parameters likewise.

    Raises:
        ConfigurationError: If there is no target, or a name is of nothing in the model.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    head = model.get_output_embeddings()
    trained = [module.weight for module in linear.values() if module is not head]
    if targets != "all-linear":
        patterns = [targets] if isinstance(targets, str) else targets
        trained = [linear[name].weight for name in _found(list(linear), patterns, "targets", "linear layer")]
    others = dict(model.named_parameters())
    trained += [others[name] for name in _found(list(others), also_train, "also_train", "parameter")]
    if not trained:
        raise ConfigurationError(
            f"full fine-tuning needs targets, the linear layers that it trains, got {targets!r}. Name some, e.g. q_proj, or "
            "all-linear."
        )
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def _found(names: Sequence[str], patterns: Sequence[str], argument: str, what: str) -> list[str]:
    """The names that some pattern fits."""
    for pattern in patterns:
        if not any(map(_fits(pattern), names)):
            raise ConfigurationError(
                f"{argument} must name what is in the model, and no {what} has {pattern!r} in its name. There are e.g. "
                f"{', '.join(names[:2])}."
            )
    return [name for name in names if any(_fits(pattern)(name) for pattern in patterns)]


def _fits(pattern: str) -> Callable[[str], bool]:
    return lambda name: f".{pattern}." in f".{name}."
