"""AnswerBudget: the weight at which answers keep within a limit, found while training."""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.precision import keep_float32

_FORGETTING = 0.1
"""Share of a step's divergence in its running mean: that of a few answers is several times off."""
_RATE, _LEAD = 0.05, 0.5
"""Of the logarithm of the weight: how fast it follows the mean's distance from the limit, and how far it runs ahead."""
_LOWEST, _HIGHEST = -1.0, 2.0
"""Of that distance, a logarithm: at the start the divergence is 0."""
_REACH = math.log(100)
_ROUNDING = 1e-3


class AnswerBudget(nn.Module):
    """Holds the divergence of answers at or below a limit, by the weight that it is multiplied with.

    A dual ascent in log space, with a lead that keeps it from swinging. With the running mean m of the divergence and the
    limit b, after each optimizer step:

        e = log(m/b), within −1 and 2;   s ← s + 0.05·e;   weight = start · exp(s + 0.5·e), within start/100 and start·100

    So where nothing is near the limit the weight falls to next to nothing, and no number depends on the model. The state
    (m, s and the weight) is in the ``state_dict``; nothing waits for the device.

    Args:
        limit: b > 0, in nats.
        start: Of the weight, > 0.
    """

    mean: Tensor
    strength: Tensor
    weight: Tensor
    """What to multiply the divergence with, a scalar."""

    def __init__(self, limit: float, start: float) -> None:
        super().__init__()
        self.limit, self.start = limit, start
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("strength", torch.tensor(0.0))
        self.register_buffer("weight", torch.tensor(start))

    @torch.no_grad()
    def observe(self, divergence: Tensor) -> None:
        """Take note of a step's divergence, a scalar, the same on every rank; one that is no number is passed over.

        One below 0, as rounding makes it where nothing has changed yet, is 0: it has no logarithm.
        """
        mean = self.mean.lerp(divergence.detach().to(self.mean).clamp_min(0), _FORGETTING)
        distance = (mean / self.limit).log().clamp(_LOWEST, _HIGHEST)
        strength = (self.strength + _RATE * distance).clamp(-_REACH, _REACH)
        weight = self.start * (strength + _LEAD * distance).clamp(-_REACH, _REACH).exp()
        for state, value in ((self.mean, mean), (self.strength, strength), (self.weight, weight)):
            state.copy_(torch.where(divergence.isfinite(), value, state))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse a state that no run comes to: one would have a model trained away from its answers."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        moved = torch.stack([self.strength, (self.weight / self.start).log()]).abs().max()  # NaN of a weight below 0
        if not (self.mean >= 0 and moved <= _REACH + _ROUNDING):
            raise ConfigurationError(
                f"a budget of answers must have a weight within {self.start / 100:g} and {self.start * 100:g} and a mean of "
                f"0 or more; a checkpoint has {float(self.weight):g} and {float(self.mean):g}. Go on from another one."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Small steps of a logarithm need float32 under every precision plugin."""
        module: Self = super()._apply(keep_float32(fn), recurse)  # type: ignore[no-untyped-call]
        return module
