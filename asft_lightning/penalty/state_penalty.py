"""StatePenalty: how far a live model's last hidden states are from those that the aligned model had."""

from typing import Any, ClassVar

from torch import Tensor, nn

from asft_lightning.functional import mean_squared_distance
from asft_lightning.penalty.reference_penalty import ReferencePenalty, logits_with_hook


class StatePenalty(ReferencePenalty):
    """The mean squared distance of what the head is given, over some of the aligned model's tokens and over its width.

    With answers of no tokens these are the states at the last token of each prompt, from which the first of an answer is
    said: Safety Bottleneck Regularization (arXiv 2605.05995).

    The arguments are those of :class:`ReferencePenalty`.
    """

    figure: ClassVar = "state_distance"

    def compare(
        self, model: nn.Module, inputs: dict[str, Any], positions: Tensor, reference: Tensor, counted: Tensor
    ) -> Tensor:
        """The mean squared distance over the positions that count."""
        seen = list[Tensor]()

        def look(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            seen.append(args[0][:, positions])
            return (args[0][:, :1], *args[1:])  # logits are not asked for

        logits_with_hook(model, inputs, look)
        return mean_squared_distance(reference, seen.pop(), counted)
