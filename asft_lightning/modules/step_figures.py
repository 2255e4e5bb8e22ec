"""StepFigures: what the host wants to know of a training step, without that it waits for the device."""

from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from asft_lightning.runtime.ending import is_told
from asft_lightning.runtime.queued import OnItsWay
from asft_lightning.runtime.ranks import greatest_over_ranks


class StepFigures:
    """Figures that are sent to the host before a step's backward pass is queued, and read there once it is.

    So while the host reads them the device has the whole backward pass left to do; and no weight has changed yet. Whether
    a rank's loss is no number, or it was told to end, all ranks learn at once.

    Args:
        trainer: Of the run, None outside of one; every rank has to come here.
        loss: Of the step, a scalar.
        figures: Scalars to be shown, by name.
    """

    def __init__(self, trainer: Trainer | None, loss: Tensor, figures: Mapping[str, Tensor]) -> None:
        loss = loss.detach()
        is_spoilt = loss.isfinite().logical_not()
        must_end = greatest_over_ranks(trainer, (is_spoilt | is_told(trainer)).to(loss.dtype))
        values = [figure.detach().to(loss.dtype) for figure in figures.values()]
        self._names = tuple(figures)
        self._copy = OnItsWay(torch.stack([must_end, is_spoilt.to(loss.dtype), *values]))

    @property
    def must_end(self) -> bool:
        """Whether some rank's loss is no finite number, or one was told to end."""
        return bool(self._copy.arrived()[0])

    @property
    def is_spoilt(self) -> bool:
        """Whether this rank's loss is no finite number."""
        return bool(self._copy.arrived()[1])

    @property
    def shown(self) -> dict[str, Tensor]:
        """The figures by name, on the host."""
        return dict(zip(self._names, self._copy.arrived()[2:].unbind(), strict=True))
