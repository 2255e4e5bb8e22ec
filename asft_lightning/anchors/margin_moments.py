"""MarginMoments: what is put into layers, and what of that which they put out the model's answers begin by."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from asft_lightning.anchors.second_moment import SecondMoment
from asft_lightning.anchors.watching import InputWatch, gradients_from_embeddings, hooked, layers_of
from asft_lightning.chat.batching import PaddedBatch
from asft_lightning.errors import AnchorError
from asft_lightning.evaluation.likelihood import logits_at
from asft_lightning.functional import top_token_margin
from asft_lightning.weights.targets import Target

ANSWER_TOKENS = 4
"""Whose margins are held: of the first tokens of the model's own answer to a prompt."""


class MarginMoments:
    """Second moments G of layers' inputs x and S of gradients g = ∂μ/∂y of their outputs y, over the tokens of some texts.

    A text is a prompt with the answer that the model begins, but for the last token of :data:`ANSWER_TOKENS`, or of fewer
    where the answer ends before. μ is the mean over those tokens of m / max(1, |m|), m = log p − log(1 − p) the margin by
    which the model prefers the token (the denominator is a constant): a change of μ is one of the margins as a share of
    themselves, or in nats where they are below one. A margin does not saturate where a probability does.

    Args:
        model: The model, with its parameters frozen and its adapters off.
        targets: Layers by name.
        capacity: Of each :class:`SecondMoment`.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, targets: Sequence[Target], capacity: int) -> None:
        self.inputs = {target.name: SecondMoment(target.shape[1], capacity) for target in targets}
        self.gradients = {target.name: SecondMoment(target.shape[0], capacity) for target in targets}
        self._model, self._watch = model, InputWatch(self.inputs)
        self._texts = self._tokens = 0

    @property
    def tokens(self) -> float:
        """Tokens of a text, in the mean."""
        return self._tokens / self._texts

    def add(self, batch: PaddedBatch, firsts: Sequence[int]) -> None:
        """Count texts, padded on the right.

        Args:
            batch: The texts.
            firsts: Place of each one's last prompt token, from which on the answer is said.

        Raises:
            AnchorError: If a layer does not see every token, or something is not finite.
        """
        counted = self._watch.counted = batch.attention_mask.bool()
        place = torch.arange(counted.shape[1], device=counted.device)
        saying = counted & (place >= torch.tensor(firsts, device=counted.device)[:, None])
        with hooked(self._hooks()), torch.enable_grad():
            columns = saying.any(dim=0).nonzero()[:, 0]
            logits = logits_at(self._model, batch._asdict() | {"use_cache": False}, columns)
            margins = top_token_margin(logits[saying[:, columns]].float())
            shares = margins / margins.detach().abs().clamp_min(1.0)
            of_answer = saying.sum(dim=1)
            (shares / of_answer.repeat_interleave(of_answer)).sum().backward()  # type: ignore[no-untyped-call]
        self._texts += len(counted)
        self._tokens += int(counted.sum())

    def require_complete(self) -> None:
        """Refuse layers that some tokens do not go through.

        Raises:
            AnchorError: If there is one; it is named.
        """
        for name, moment in self.inputs.items():
            if min(moment.count, self.gradients[name].count) < self._tokens:
                raise AnchorError(
                    f"{name}: Activation needs layers that every token goes through, and whose outputs the answers depend "
                    f"on; this one saw {moment.count} of {self._tokens} tokens, and {self.gradients[name].count} on the way "
                    "back. Leave it out of target_modules, or use another anchor."
                )

    def _hooks(self) -> Iterator[RemovableHandle]:
        yield gradients_from_embeddings(self._model)
        for name, layer in layers_of(self._model, self.inputs):
            yield layer.register_forward_pre_hook(self._watch.of(name))
            yield layer.register_forward_hook(self._on_the_way_back(name))

    def _on_the_way_back(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        """The forward hook of one layer: its outputs' gradients, when they come."""

        def add(gradient: Tensor) -> None:
            chosen = gradient[self._watch.counted]
            if not bool(chosen.isfinite().all()):
                raise AnchorError(
                    f"{name}: what the model's answers depend on must be finite, and its gradient holds NaN or Inf on some "
                    "prompts. Load the aligned model in bfloat16 or float32."
                )
            self.gradients[name].add(chosen)

        def watch(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            out.register_hook(add)  # type: ignore[no-untyped-call]

        return watch
