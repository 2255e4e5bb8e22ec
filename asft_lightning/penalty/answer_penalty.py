"""AnswerPenalty: how far a live model's answers are from those that the aligned model gave."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asft_lightning.functional import mean_divergence
from asft_lightning.penalty.reference_penalty import ReferencePenalty, logits_with_hook


class AnswerPenalty(ReferencePenalty):
    """KL(aligned ‖ current), the mean over the tokens of some of the aligned model's own answers, in nats.

    The aligned model's last hidden states go through the frozen head beside the current ones, in the same call, so that
    whatever a model does to its logits (soft caps, scales) it does to both.

    The arguments are those of :class:`ReferencePenalty`.
    """

    figure: ClassVar = "answer_divergence"

    def compare(
        self, model: nn.Module, inputs: dict[str, Any], positions: Tensor, reference: Tensor, counted: Tensor
    ) -> Tensor:
        """The mean divergence over the positions that count."""

        def put_beside(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            return (torch.cat([reference.to(hidden.dtype), hidden[:, positions]]), *args[1:])

        aligned, current = logits_with_hook(model, inputs, put_beside).chunk(2)
        return mean_divergence(aligned, current, counted)
