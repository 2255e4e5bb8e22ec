"""Cross-entropy on answer tokens, from as few logits as it takes."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation.likelihood import logits_at
from asft_lightning.evaluation.shared_beginning import after_beginning
from asft_lightning.functional import IGNORE_INDEX, mean_over_rows, mean_over_tokens, token_losses
from asft_lightning.modules.ready_batch import BEGINNING, COLUMNS, READY, ROW_COUNT, ROWS, ready
from asft_lightning.runtime.sharding import forward_root
from asft_lightning.runtime.undisturbed import undisturbed

LossReduction = Literal["token", "row"]


_REDUCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {"token": mean_over_tokens, "row": mean_over_rows}


class TokenLosses(NamedTuple):
    """What a model's loss on a batch is made of, at the positions before which some row has an answer token.

    Attributes:
        losses: −log p of each token that is learnt (lines, positions), 0 elsewhere.
        is_learnt: Which tokens are (lines, positions), booleans.
        rows: Which row each token is of (lines, positions), counted over the batch.
        row_count: Rows of the batch, padding at the end of a packed line among them.
        positions: Columns of these in ``labels[:, 1:]`` (positions,).
        weights: What each token's loss counts (lines, positions); None where all count alike.
    """

    losses: Tensor
    is_learnt: Tensor
    rows: Tensor
    row_count: int
    positions: Tensor
    weights: Tensor | None = None


class TaskLoss:
    """The fine-tuning task's loss of a Transformers causal LM on a batch.

    A row's prompt needs no logits, and its answer is often a word: they are computed only at positions before which some
    row of the batch has an answer token, by Transformers' ``logits_to_keep``, where the model has it. What all rows of a
    batch begin with, such as a system prompt and the task's instruction, is run once for all of them on a CPU; dropout there
    is drawn once for all as well.

    Args:
        reduction: ``token``: mean over the answer tokens of the batch, as Transformers and the authors; ``row``: mean
            over rows of their token means, which alone is the same under accumulation and over ranks.

    Raises:
        ConfigurationError: If ``reduction`` is neither.
    """

    def __init__(self, reduction: LossReduction = "token") -> None:
        if reduction not in _REDUCTIONS:
            raise ConfigurationError(f"loss_reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}.")
        self._reduce = _REDUCTIONS[reduction]
        self._checked = False

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss, a scalar; ``batch`` as made by :class:`AnswerOnlyCollator`, made :func:`ready` or not.

        Raises:
            ConfigurationError: As :meth:`of_tokens`.
        """
        return self.reduced(self.of_tokens(model, batch))

    def reduced(self, tokens: TokenLosses) -> Tensor:
        """The loss of a batch from those of its tokens, a scalar."""
        losses = tokens.losses if tokens.weights is None else tokens.losses * tokens.weights
        return self._reduce(losses, tokens.is_learnt, tokens.rows, tokens.row_count)

    def of_tokens(self, model: nn.Module, batch: Mapping[str, Tensor]) -> TokenLosses:
        """The losses of a batch's tokens.

        Raises:
            ConfigurationError: At the first batch with rows beside each other, if the model lets them attend to each other.
        """
        model = forward_root(model)
        facts = batch if COLUMNS in batch else ready(batch)
        others = ("labels", "loss_weights", *READY)
        inputs = {name: value for name, value in batch.items() if name not in others} | {"use_cache": False}
        if "position_ids" in batch and not self._checked:
            self._checked = _require_separate_rows(model, inputs)
        columns = facts[COLUMNS]
        targets = batch["labels"][:, 1:][:, columns]
        is_alone = set(inputs) == {"input_ids", "use_cache"}  # what else a row is told, a beginning would have to be
        rest = after_beginning(model, batch["input_ids"], int(facts[BEGINNING])) if is_alone else None
        logits = logits_at(model, inputs, columns) if rest is None else logits_at(model, rest, columns - facts[BEGINNING])
        losses = token_losses(logits, targets)
        weights = batch["loss_weights"][:, 1:][:, columns] if "loss_weights" in batch else None
        rows = facts[ROWS][:, 1:][:, columns]
        return TokenLosses(losses, targets != IGNORE_INDEX, rows, int(facts[ROW_COUNT]), columns, weights)


def _require_separate_rows(model: nn.Module, inputs: dict[str, Tensor | bool]) -> bool:
    """Other tokens in the first row of each line must change nothing, to the last bit, in the rows after it.

    Returns:
        Whether there were rows to try it on; the padding at the end of a line counts as one.
    """
    ids, positions = inputs["input_ids"], inputs["position_ids"]
    assert isinstance(ids, Tensor) and isinstance(positions, Tensor)
    first = (positions == 0).cumsum(1) == 1
    if bool(first.all()):
        return False
    with undisturbed(model):
        logits = model(**inputs).logits
        others = model(**inputs | {"input_ids": torch.where(first, (ids + 1) % logits.shape[-1], ids)}).logits
    if not torch.equal(logits[~first], others[~first]):
        raise ConfigurationError(
            "with packing rows must not attend to each other, and in this model they do. Set data.packing to false, or "
            "attn_implementation to one that keeps packed rows apart: sdpa, eager, flash_attention_2."
        )
    return True
