"""Conflict: how far training on a row moves the aligned model as complying with unsafe requests would move it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from asft_lightning.anchors.watching import hooked, layers_of
from asft_lightning.errors import AnchorError
from asft_lightning.functional import IGNORE_INDEX, row_cosines, row_gradients, row_norms
from asft_lightning.runtime.undisturbed import undisturbed

Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and ``labels`` (rows, tokens), as :class:`AnswerOnlyCollator` makes them unpacked."""


def conflict_scores(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    targets: Sequence[str],
    harmful: Iterable[Batch],
    benign: Iterable[Batch],
    rank: int = 8,
    seed: int = 0,
) -> Tensor:
    """The conflict of each training row with the model's refusals: high where training on it undoes them.

    The cosine between the row's gradient and the direction that leads from the mean gradient of benign rows to that of
    harmful ones, each row's gradient counted by its direction alone. So does "What is in your safe data?" (arXiv
    2404.01099) anchor its choice on both sides. Gradients are those of :class:`RowGradients`.

    Args:
        model: The aligned model, as it stands; it is left as it is found.
        batches: The training rows.
        targets: The layers that are to be trained, by their names in the plain model.
        harmful: A few unsafe requests with answers that comply, of which an opening is enough.
        benign: A few rows known to be good, best of the kind of the training rows.
        rank: Of the random A; the more, the nearer to the whole weight's gradients.
        seed: Of A.

    Returns:
        (rows,) in −1..1, float32 or more, on the CPU, in the rows' order.

    Raises:
        AnchorError: If the model lacks a layer or does not give it every token, a gradient is not finite, or harmful and
            benign rows do not differ.
    """
    gradients = RowGradients(model, targets, rank, seed)
    towards, away = (gradients.mean_direction(rows) for rows in (harmful, benign))
    direction = {name: towards[name] - away[name] for name in towards}
    if not any(bool(part.any()) for part in direction.values()):
        raise AnchorError(
            "conflict needs harmful and benign rows that differ, and their gradients are the same. Give others."
        )
    scores = [row_cosines(gradients(batch), direction).cpu() for batch in batches]
    return torch.cat([torch.empty(0), *scores])  # a rank may have no row


class RowGradients:
    """The gradient of LoRA's B for each row of a batch by itself, at the start of training, where B = 0 and A has none.

    One pass there and back gives it for all rows of the batch: Σ_t g_t (A x_t)ᵀ, x_t what a layer is given at token t and
    g_t the gradient, by what it puts out, of the row's loss, the mean over its answer's tokens. (α/r cancels in a cosine.)
    A is drawn anew: with independent entries, inner products of these gradients are on average those of the whole weight's.

    Args:
        model: The aligned model, as it stands.
        targets: The layers, by their names in the plain model.
        rank: Of A.
        seed: Of A.

    Raises:
        AnchorError: If the model lacks one of them.
    """

    def __init__(self, model: PreTrainedModel, targets: Sequence[str], rank: int = 8, seed: int = 0) -> None:
        self._model, self._layers, self._rank = model, layers_of(model, targets), rank
        self._generator = torch.Generator().manual_seed(seed)
        self.factors: dict[str, Tensor] = {}  # A of each layer (rank, d_in)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """{layer: gradients (rows, d_out, rank)}, in float32 or more, where the model is.

        Raises:
            AnchorError: If one is not finite, or a layer is not given every token of every row.
        """
        found: dict[str, Tensor] = {}
        with undisturbed(self._model), _frozen(self._model), hooked(self._hooks(found)), torch.enable_grad():
            _row_losses(self._model, batch).sum().backward()  # type: ignore[no-untyped-call]
        self._require_sound(found, len(batch["input_ids"]))
        return found

    def mean_direction(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """The mean of the rows' gradients, each of norm 1, itself of norm 1: {layer: (d_out, rank)}.

        Raises:
            AnchorError: If there are no rows, or as of a call.
        """
        total: dict[str, Tensor] = {}
        for batch in batches:
            gradients = self(batch)
            shares = 1 / row_norms(gradients).clamp_min(torch.finfo(torch.float32).tiny)
            for name, of_layer in gradients.items():
                total[name] = total.get(name, 0) + torch.tensordot(shares, of_layer, 1)
        if not total:
            raise AnchorError("conflict needs harmful and benign rows to compare with, and got none of one. Give some.")
        norm = row_norms({name: part[None] for name, part in total.items()})
        return {name: part / norm.clamp_min(torch.finfo(norm.dtype).tiny) for name, part in total.items()}

    def _require_sound(self, found: dict[str, Tensor], rows: int) -> None:
        seen = {name: of_layer.shape[0] if of_layer.dim() == 3 else None for name, of_layer in found.items()}
        if apart := [name for name, _ in self._layers if seen.get(name) != rows]:
            raise AnchorError(
                f"{apart[0]}: conflict needs layers that see every token at its place, and this one does not (experts that "
                "tokens are routed to?). Leave it out of targets."
            )
        if not bool(row_norms(found).isfinite().all()):
            raise AnchorError(
                "conflict needs gradients that are finite, and a row's holds NaN or Inf. Load the aligned model in bfloat16 "
                "or float32."
            )

    def _hooks(self, found: dict[str, Tensor]) -> Iterator[RemovableHandle]:
        for name, layer in self._layers:
            yield layer.register_forward_hook(self._watch(name, found))

    def _watch(self, name: str, found: dict[str, Tensor]) -> Any:
        """The forward hook of one layer: what comes back to its output is multiplied with what it was given at once."""

        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            inputs = args[0].detach()
            inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
            projected = inputs @ self._factor(name, inputs).mT

            def add(gradients: Tensor) -> None:
                found[name] = found.get(name, 0) + row_gradients(projected, gradients.to(projected.dtype))

            if not out.requires_grad:
                out.requires_grad_()  # the lowest layer: there the way back ends
            out.register_hook(add)  # type: ignore[no-untyped-call]

        return hook

    def _factor(self, name: str, inputs: Tensor) -> Tensor:
        """A of this layer (rank, d_in), drawn when it is first run."""
        if name not in self.factors:
            a = torch.randn(self._rank, inputs.shape[-1], generator=self._generator)
            self.factors[name] = a.to(inputs)
        return self.factors[name]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter is to be trained; afterwards those that were are so."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _row_losses(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The mean negative log-likelihood of each row's answer tokens (rows,), from logits where an answer stands alone."""
    device = next(model.parameters()).device
    targets = batch["labels"][:, 1:].to(device)
    positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
    head: nn.Module = model.get_output_embeddings()
    with hooked([head.register_forward_pre_hook(lambda _, args: (args[0][:, positions], *args[1:]))]):
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        logits = model(**inputs, use_cache=False).logits
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2).to(torch.promote_types(logits.dtype, torch.float32)),
        targets[:, positions],
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )
    return losses.sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1).clamp_min(1)
