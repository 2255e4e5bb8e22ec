"""A model with its adapters switched off for a while: what they were put on."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn


def has_adapters(model: nn.Module) -> bool:
    """Whether there is anything that :func:`without_adapters` would switch off."""
    return any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in model.modules())


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Adapters switched off, with or without PEFT's wrapper; afterwards what was on is on, and what was trainable is so.

    PEFT's own ``disable_adapter`` makes the active adapter trainable and every other one not, whatever they were.

    Args:
        model: The model, with an adapter or without.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    on = [layer for layer in layers if not layer.disable_adapters]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for layer in on:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in on:
            layer.enable_adapters(True)
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
