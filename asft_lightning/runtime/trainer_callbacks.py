"""The callbacks of a Trainer, which Lightning adds to it untyped."""

from typing import TypeVar

from lightning.pytorch import Callback, Trainer

C = TypeVar("C", bound=Callback)


def callbacks_of(trainer: Trainer, kind: type[C] | tuple[type[C], ...]) -> list[C]:
    """Those of a kind, or of several, in their order."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, kind)]
