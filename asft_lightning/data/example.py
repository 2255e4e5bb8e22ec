"""Example: one training row in token ids, kept small, for a run may have millions."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asft_lightning.chat.rows import Kind, Row
from asft_lightning.functional import IGNORE_INDEX

_TOGETHER = 512
"""Rows that are unpacked together."""


@dataclass(frozen=True, slots=True, init=False)
class Example:
    """One training row in token ids.

    Args:
        input_ids: The conversation.
        labels: The same where it is to be learnt, ``IGNORE_INDEX`` elsewhere; never all of them.
        row: The text they were made from.
        kind: What the row is there for.
        source: Name of the pool it was drawn from.
        truncated: Whether its end was cut off.
        weight: What its loss is multiplied with.
    """

    row: Row
    kind: Kind
    source: str
    truncated: bool
    weight: float
    _tokens: "array[int]"

    def __init__(
        self,
        input_ids: Sequence[int],
        labels: Sequence[int],
        row: Row,
        kind: Kind = "benign",
        source: str = "",
        truncated: bool = False,
        weight: float = 1.0,
    ) -> None:
        put = object.__setattr__  # the way to fill a frozen one
        put(self, "row", row)
        put(self, "kind", kind)
        put(self, "source", source)
        put(self, "truncated", truncated)
        put(self, "weight", weight)
        # 4 bytes a token, where two lists of int take up to 52; ~ of those that are not learnt, which is below 0.
        signed = [i if label == i else ~i for i, label in zip(input_ids, labels, strict=True)]
        put(self, "_tokens", array("i", signed))

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._tokens)

    @property
    def input_ids(self) -> list[int]:
        """The conversation; a new list."""
        return [token if token >= 0 else ~token for token in self._tokens]

    @property
    def labels(self) -> list[int]:
        """What is to be learnt, and ``IGNORE_INDEX``; a new list."""
        return [token if token >= 0 else IGNORE_INDEX for token in self._tokens]

    def token_bytes(self) -> bytes:
        """Its tokens and which of them are learnt, the same bytes on every machine."""
        return np.asarray(self._tokens).astype("<i4", copy=False).tobytes()

    def weighted(self, weight: float) -> "Example":
        """The same row, whose loss is multiplied with this."""
        return Example(self.input_ids, self.labels, self.row, self.kind, self.source, self.truncated, weight)

    @classmethod
    def unpacked(cls, examples: Sequence["Example"]) -> Iterator[tuple["Example", list[int], list[int]]]:
        """Each with its ``input_ids`` and ``labels``, much faster than one by one; some at a time, for they take memory."""
        for start in range(0, len(examples), _TOGETHER):
            some = examples[start : start + _TOGETHER]
            tokens = np.frombuffer(b"".join([example._tokens for example in some]), np.intc)
            is_learnt = tokens >= 0
            input_ids = np.where(is_learnt, tokens, ~tokens).tolist()
            labels = np.where(is_learnt, tokens, IGNORE_INDEX).tolist()
            at = 0
            for example in some:
                row = slice(at, at := at + len(example))
                yield example, input_ids[row], labels[row]

    @property
    def harmful(self) -> bool:
        """Whether the row is poison."""
        return self.kind == "harmful"
