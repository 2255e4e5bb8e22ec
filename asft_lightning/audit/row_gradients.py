"""RowGradients: where the aligned model would go if it were trained on one row alone, for each row of a batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from asft_lightning.anchors.watching import hooked, layers_of
from asft_lightning.errors import AnchorError
from asft_lightning.evaluation.likelihood import logits_at
from asft_lightning.functional import IGNORE_INDEX, row_gradients, token_losses, unit_matrices
from asft_lightning.runtime.undisturbed import undisturbed

Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and ``labels`` (rows, tokens), as :class:`AnswerOnlyCollator` makes them unpacked."""


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

    def __init__(self, model: PreTrainedModel, targets: Sequence[str], rank: int = 32, seed: int = 0) -> None:
        self._model, self._layers, self._rank = model, layers_of(model, targets), rank
        self._generator = torch.Generator().manual_seed(seed)
        self.factors: dict[str, Tensor] = {}  # A of each layer (rank, d_in)

    def __call__(self, batch: Batch, take: Callable[[str, Tensor], None]) -> None:
        """Hand over each layer's gradients as they come, so that those of one layer at a time are in memory.

        Args:
            batch: The rows.
            take: Is called with a layer's name and its gradients (rows, d_out, rank), in float32 or more.

        Raises:
            AnchorError: If one is not finite, or a layer is not given every token of every row, once.
        """
        came: list[str] = []

        def checked(name: str, found: Tensor) -> None:
            came.append(name)
            _require_sound(name, found, len(batch["input_ids"]), came.count(name))
            take(name, found)

        hooks = (layer.register_forward_hook(self._watch(name, checked)) for name, layer in self._layers)
        with undisturbed(self._model), _frozen(self._model), hooked(hooks), torch.enable_grad():
            _row_losses(self._model, batch).sum().backward()  # type: ignore[no-untyped-call]
        if unseen := [name for name, _ in self._layers if name not in came]:
            raise _apart(unseen[0])

    def mean_directions(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """{layer: the mean of the rows' gradients, each divided by its norm (d_out, rank)}.

        Raises:
            AnchorError: If there are no rows, or as of a call.
        """
        total: dict[str, Tensor] = {}
        count = 0

        def add(name: str, found: Tensor) -> None:
            total[name] = total.get(name, 0) + unit_matrices(found).sum(dim=0)

        for batch in batches:
            self(batch, add)
            count += len(batch["input_ids"])
        if not count:
            raise AnchorError(
                "conflict needs harmful and benign rows and refusals to compare with, got none of one. Give some."
            )
        return {name: part / count for name, part in total.items()}

    def _watch(self, name: str, take: Callable[[str, Tensor], None]) -> Callable[..., None]:
        """The forward hook of one layer: what comes back to its output is multiplied with what it was given at once."""

        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            inputs = args[0].detach()
            inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
            with torch.autocast(inputs.device.type, enabled=False):
                projected = inputs @ self._factor(name, inputs).mT

            def multiply(gradients: Tensor) -> None:
                with torch.autocast(inputs.device.type, enabled=False):
                    take(name, row_gradients(projected, gradients.to(projected.dtype)))

            if not out.requires_grad:
                out.requires_grad_()  # the lowest layer: there the way back ends
            out.register_hook(multiply)  # type: ignore[no-untyped-call]

        return hook

    def _factor(self, name: str, inputs: Tensor) -> Tensor:
        """A of this layer (rank, d_in), drawn when it is first run."""
        if name not in self.factors:
            a = torch.randn(self._rank, inputs.shape[-1], generator=self._generator, dtype=torch.float32)
            self.factors[name] = a.to(inputs)
        return self.factors[name]


def _require_sound(name: str, found: Tensor, rows: int, times: int) -> None:
    """Refuse what is not one gradient a row."""
    if found.dim() != 3 or len(found) != rows or times > 1:
        raise _apart(name)
    if not bool(found.isfinite().all()):
        raise AnchorError(
            f"{name}: conflict needs gradients that are finite, and a row's holds NaN or Inf. Load the aligned model in "
            "bfloat16 or float32."
        )


def _apart(name: str) -> AnchorError:
    return AnchorError(
        f"{name}: conflict needs layers that see every token at its place, once, and this one does not (experts that tokens "
        "are routed to?). Leave it out of targets."
    )


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
    inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
    losses = token_losses(logits_at(model, {**inputs, "use_cache": False}, positions), targets[:, positions])
    return losses.sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1).clamp_min(1)
