"""ReferencePenalty: a live model against what the aligned model had in mind at some tokens, a few rows an optimizer step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from asft_lightning.anchors.kept_answers import KeptAnswers
from asft_lightning.errors import UnpenalisedError
from asft_lightning.runtime.queued import on_device
from asft_lightning.runtime.sharding import forward_root

BeforeHead = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""A hook that changes or looks at what the head is given."""


class ReferencePenalty(nn.Module, ABC):
    """How far a live model is from the aligned one on some rows: a function of the model and the optimizer step.

    The aligned model itself is not needed: what its head was given is kept (:class:`KeptAnswers`). Nothing of this is in
    the ``state_dict``: that has a file of its own.

    Args:
        model: The model to be trained, for its head is looked at.
        answers: Of :class:`Answers`.
        rows_per_step: Answers a call.
        seed: Of the order of the answers; which are compared at a step follows from it and the step alone.

    Raises:
        UnpenalisedError: If the head is trained: what it made of the aligned model's states could not be made again.
    """

    figure: ClassVar[str]
    """What the distance is called in the log."""

    input_ids: Tensor
    hidden: Tensor

    def __init__(self, model: nn.Module, answers: KeptAnswers, *, rows_per_step: int = 2, seed: int = 0) -> None:
        super().__init__()
        _require_frozen_head(model, answers.hidden.shape[-1])
        self.prompts = frozenset(answers.prompts)
        """A hash of each prompt (:func:`prompt_hash`), for those must not be scored."""
        self._spans = list(zip(answers.prompt_lengths.tolist(), answers.lengths.tolist(), strict=True))
        self._rows_per_step, self._seed = rows_per_step, seed
        self.register_buffer("input_ids", answers.input_ids, persistent=False)
        self.register_buffer("hidden", answers.hidden, persistent=False)

    def forward(self, model: nn.Module, step: int) -> Tensor:
        """The mean distance over the tokens of this step's rows, a float32 scalar.

        Args:
            model: The model, wrapped or not.
            step: Optimizer steps taken.
        """
        rows = self.rows_of(step)
        spans = [self._spans[row] for row in rows]
        columns = sorted({column for start, end in spans for column in range(start - 1, end)})
        last = self.hidden.shape[1] - 1
        places = [[min(max(column - start + 1, 0), last) for column in columns] for start, _ in spans]
        is_counted = [[start - 1 <= column < end for column in columns] for start, end in spans]
        device = self.input_ids.device
        chosen, positions = on_device(rows, device), on_device(columns, device)
        # Without a mask: padding stands behind the rows, where a causal model does not look.
        inputs = {"input_ids": self.input_ids[chosen, : max(end for _, end in spans)], "use_cache": False}
        reference = self.hidden[chosen[:, None], on_device(places, device)]
        return self.compare(forward_root(model), inputs, positions, reference, on_device(is_counted, device))

    @abstractmethod
    def compare(
        self, model: nn.Module, inputs: dict[str, Any], positions: Tensor, reference: Tensor, counted: Tensor
    ) -> Tensor:
        """Hook: the distance on these rows, a scalar.

        Args:
            model: The model to call.
            inputs: Of its forward pass (rows, tokens).
            positions: Columns of tokens that may count (positions,).
            reference: What the aligned model's head was given at them (rows, positions, width).
            counted: Which of them count (rows, positions), booleans.
        """

    def rows_of(self, step: int) -> list[int]:
        """Which answers are compared at a step: all in turn, in another seeded order each time round."""
        count, orders = len(self._spans), dict[int, Sequence[int]]()
        rows = []
        for place in range(step * self._rows_per_step, (step + 1) * self._rows_per_step):
            turn, position = divmod(place, count)
            if turn not in orders:
                generator = torch.Generator().manual_seed(self._seed * 1_000_003 + turn)
                orders[turn] = torch.randperm(count, generator=generator).tolist()
            rows.append(orders[turn][position])
        return rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Answers follow moves between devices, and no cast: their states are what the aligned model computed."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor.new_empty(0)).device)

        module: Self = super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return module


def held_prompts(module: nn.Module) -> frozenset[str]:
    """A hash of each prompt whose answers a module is held to."""
    penalties = (part for part in module.modules() if isinstance(part, ReferencePenalty))
    return frozenset(prompt for penalty in penalties for prompt in penalty.prompts)


def logits_with_hook(model: nn.Module, inputs: dict[str, Any], before_head: BeforeHead) -> Tensor:
    """The logits of one forward pass with a hook on what the head is given.

    Args:
        model: The model to call.
        inputs: Of its forward pass.
        before_head: The hook.
    """
    handle = _head(model).register_forward_pre_hook(before_head)
    # A compiled call was traced without the hook and would pass it by.
    call = model if model._compiled_call_impl is None else model.forward
    try:
        logits: Tensor = call(**inputs).logits
    finally:
        handle.remove()
    return logits


def _head(model: nn.Module) -> nn.Module:
    plain: PreTrainedModel = model
    head: nn.Module = plain.get_output_embeddings()
    return head


def _require_frozen_head(model: nn.Module, width: int) -> None:
    head = _head(model)
    if isinstance(head, BaseTunerLayer) or any(parameter.requires_grad for parameter in head.parameters()):
        raise UnpenalisedError(
            "an anchor on answers or states needs a frozen head, and lm_head is trained. Leave it, and the embeddings that "
            "it may be tied to, out of target_modules and modules_to_save, or take an anchor on the update."
        )
    own = getattr(head, "in_features", width)
    if own != width:
        raise UnpenalisedError(
            f"an anchor on answers or states needs the states of this model, of width {own}, and has some of width {width}. "
            "Build it for this model."
        )
