"""Sensitivity: how far the aligned model's way of beginning an answer depends on what its layers put out."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from asft_lightning.anchors.watching import gradients_from_embeddings, hooked
from asft_lightning.chat.batching import PaddedBatch
from asft_lightning.errors import AnchorError
from asft_lightning.evaluation.likelihood import logits_at
from asft_lightning.functional import top_token_margin


class Sensitivity:
    """c = median over prompts of s / m², with s = mean over layers of Σ_t ‖∂m/∂y_t‖²‖W x_t‖², y_t = W x_t + bias.

    m is the margin by which the model prefers the first token of its own answer to all others, log p − log(1 − p). A layer
    whose outputs y all change by a share ε, in the direction that m minds most and the same for every token, changes m by no
    more than ε·√(c·T) of itself to first order (T the tokens of a prompt), and by about ε·√c where tokens differ. A margin
    does not saturate where a probability does: an aligned model that is sure of its refusal still has a gradient. And a
    median does not hang on the few prompts that the model is in two minds about, whose s / m² has no upper limit.

    Args:
        model: The model, with its parameters frozen and its adapters off.
        layers: The layers.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, layers: Sequence[nn.Module]) -> None:
        self._model, self._layers = model, layers
        self._margins: list[Tensor] = []
        self._changes: list[Tensor] = []  # s, a batch each

    def add(self, batch: PaddedBatch, lasts: Sequence[int]) -> None:
        """Count prompts, padded on the right.

        Args:
            batch: The prompts, alone or with what is said after them.
            lasts: Place of each one's last prompt token.
        """
        device = batch.input_ids.device
        columns, column = torch.unique(torch.tensor(lasts, device=device), return_inverse=True)
        self._changes.append(torch.zeros(len(lasts), dtype=torch.float64))
        with hooked(self._hooks()), torch.enable_grad():
            logits = logits_at(self._model, batch._asdict() | {"use_cache": False}, columns)
            margins = top_token_margin(logits[torch.arange(len(lasts), device=device), column].float())
            margins.sum().backward()  # type: ignore[no-untyped-call]
        self._margins.append(margins.detach().cpu().double())

    def value(self) -> float:
        """What all that was counted comes to.

        Raises:
            AnchorError: If no margin depends on the layers, or one is not finite.
        """
        changes, margins = torch.cat(self._changes), torch.cat(self._margins)
        ratios = changes / margins.square().clamp_min(torch.finfo(torch.float64).tiny)
        is_known = bool(changes.isfinite().all() & margins.isfinite().all())
        median = float(ratios.quantile(0.5)) if is_known else float("nan")
        if not 0 < median < float("inf"):
            raise AnchorError(
                "Activation weighs the layers by what the first token of the model's own answers depends on, which must be "
                f"finite and above 0, got {median}. Is the aligned model a trained one, and loaded in bfloat16 or float32?"
            )
        return median

    def _hooks(self) -> Iterator[RemovableHandle]:
        yield gradients_from_embeddings(self._model)
        for layer in self._layers:
            yield layer.register_forward_hook(self._watch)

    def _watch(self, layer: nn.Module, _: tuple[Any, ...], out: Tensor) -> None:
        bias, changes = getattr(layer, "bias", None), self._changes[-1]
        put_out = (out.detach() if bias is None else out.detach() - bias).float().square().sum(dim=-1)

        def add(gradient: Tensor) -> None:
            of_layer = (gradient.float().square().sum(dim=-1) * put_out).sum(dim=-1)
            changes.add_(of_layer.cpu() / len(self._layers))

        out.register_hook(add)  # type: ignore[no-untyped-call]
