"""SwitchPoint: the weights at which one state of an alternating optimisation handed over to the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from asft_lightning.runtime.sharding import SumOverRanks, mesh_of, own_part, put_together, sharded_like


@dataclass(frozen=True)
class SwitchPoint:
    """A copy of what is trained, to measure how far it has drifted since; of sharded weights each rank keeps its rows.

    Args:
        weights: {name: value}.
    """

    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, parameters: Mapping[str, nn.Parameter]) -> Self:
        """The weights as they are now."""
        return cls({name: parameter.detach().clone() for name, parameter in parameters.items()})

    def distance(self, parameters: Mapping[str, nn.Parameter]) -> Tensor:
        """Σ‖w − w_switch‖² over all weights, a scalar; its gradient is 2(w − w_switch).

        Of sharded weights each rank has the gradient of its own rows, and the value of them all.
        """
        drifts = [parameter - self.weights[name] for name, parameter in parameters.items()]
        meshes = [mesh_of(drift) for drift in drifts]
        local = torch.stack([own_part(drift).square().sum() for drift in drifts]).sum()
        mesh = meshes[0]
        return local if mesh is None else local + (SumOverRanks(mesh)(local.detach()) - local.detach())

    def state(self) -> dict[str, Tensor]:
        """The weights whole and on the host, for a checkpoint; every rank must call this."""
        return put_together(dict(self.weights))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> Self:
        """What :meth:`state` gave, where and as the parameters are.

        Raises:
            ValueError: If a weight is of another shape.
        """
        if others := [name for name, p in parameters.items() if state[name].shape != p.shape]:
            raise ValueError(f"the switch point of {others[0]} is of another shape")
        return cls({name: sharded_like(state[name].to(p.device, p.dtype), p) for name, p in parameters.items()})
