"""Cross-entropy on answer tokens, from as few logits as it takes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from asft_lightning.data.collate import IGNORE_INDEX
from asft_lightning.errors import ConfigurationError

LossReduction = Literal["token", "row"]


def _mean_over_tokens(losses: Tensor, mask: Tensor) -> Tensor:
    return losses.sum() / mask.sum()


def _mean_over_rows(losses: Tensor, mask: Tensor) -> Tensor:
    return (losses.sum(dim=1) / mask.sum(dim=1).clamp_min(1)).mean()


_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"token": _mean_over_tokens, "row": _mean_over_rows}


class TaskLoss:
    """The fine-tuning task's loss of a Transformers causal LM on a batch.

    A row's prompt needs no logits, and its answer is often a word: they are computed only at positions before which some
    row of the batch has an answer token, by Transformers' ``logits_to_keep``, where the model has it.

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

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss, a scalar; ``batch`` as made by :class:`AnswerOnlyCollator`."""
        targets = batch["labels"][:, 1:]
        positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        if _keeps_logits(model):
            logits = model(**inputs, logits_to_keep=positions).logits
        else:
            logits = model(**inputs).logits[:, positions]
        targets = targets[:, positions]
        losses = nn.functional.cross_entropy(
            logits.transpose(1, 2).to(torch.promote_types(logits.dtype, torch.float32)),
            targets,
            ignore_index=IGNORE_INDEX,
            reduction="none",
        )
        return self._reduce(losses, targets != IGNORE_INDEX)


def _keeps_logits(model: nn.Module) -> bool:
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(plain.forward).parameters
