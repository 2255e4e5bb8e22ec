"""Perturbation: a model's weights moved in place, one at a time, and put back bit for bit."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from asft_lightning.landscape.rays import Ray


class Perturbation:
    """A model whose weights can be moved for a while.

    The weights that are moved are kept beside the model, in host memory. Each point is computed from them, never from the
    last point, so that nothing adds up.

    Args:
        model: The model, on its device.
        names: Of the weights that may be moved.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._weights = {name: model.get_parameter(name) for name in names}
        self.originals: Mapping[str, Tensor] = {
            name: weight.detach().to("cpu", copy=True) for name, weight in self._weights.items()
        }

    @contextmanager
    def at(self, steps: Mapping[Ray, float]) -> Iterator[None]:
        """The model at θ + Σ α d̂; afterwards, however that ends, it is at θ again.

        Each sum is computed in float32 or wider, and rounded to the weights' dtype once.

        Args:
            steps: {d̂: α}.
        """
        moved: list[str] = []
        try:
            for name, weight in self._weights.items():
                shifts = [alpha * part for ray, alpha in steps.items() if (part := ray.part(name)) is not None]
                if shifts:
                    moved.append(name)
                    _write(weight, sum(shifts, self.originals[name]))
            yield
        finally:
            for name in moved:
                _write(self._weights[name], self.originals[name])


@torch.no_grad()
def _write(weight: nn.Parameter, value: Tensor) -> None:
    weight.copy_(value)
