"""Conflict: whether training on a row would take the aligned model where complying with unsafe requests takes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from asft_lightning.audit.aligned_model import AlignedModel, Found, Places
from asft_lightning.audit.questions import questions_of
from asft_lightning.audit.row_conflicts import RowConflicts
from asft_lightning.audit.score import RowScore, Score
from asft_lightning.data.example import Example
from asft_lightning.errors import DataError
from asft_lightning.functional import IGNORE_INDEX
from asft_lightning.weights.hashing import text_hash

_BEFORE_LABELS = -1
"""Between a row's tokens and its labels in a question: no token's id, nor a label's."""


@dataclass(frozen=True)
class Conflict(Score):
    """The row's gradient beside those of unsafe requests with answers that comply, of harmless rows, and of own refusals.

    See :class:`RowConflicts`; −∞ for safety rows, and those whose answers are all refusals. It sees a row whose prompt looks
    harmless, for it is about what the row teaches. It takes a pass there and back over the upper half of the layers.

    Args:
        layers: Those that are to be trained, from the lowest.
        harmful: Unsafe requests with answers that comply.
        benign: Rows known to be harmless.
        max_new_tokens: Of the model's own refusals of the requests.

    Raises:
        DataError: When it is asked, if the model refuses none of the requests.
    """

    name: ClassVar = "conflict"

    layers: tuple[str, ...]
    harmful: tuple[Example, ...]
    benign: tuple[Example, ...]
    max_new_tokens: int = 24

    def __call__(self, aligned: AlignedModel, examples: Sequence[Example]) -> list[RowScore]:
        """The conflict of each row."""
        taught = {question.place for question in questions_of(examples) if not aligned.is_refusal(question.answer)}
        asked = [(place, examples[place]) for place in sorted(taught)]
        questions = [_question(example) for _, example in asked]

        def find(new: Places) -> Found:
            conflicts = self._conflicts(aligned)
            for places, batch in aligned.training_batches([asked[i][1] for i in new], "Audit: conflict"):
                with aligned.computing():
                    found = conflicts(batch)
                yield [new[i] for i in places], found[:, None].tolist()

        scores = [RowScore()] * len(examples)
        for (place, _), (value,) in zip(asked, aligned.recalled(self._identity, questions, find), strict=True):
            scores[place] = RowScore(value)
        return scores

    def fresh(self, known: Sequence[Example]) -> list[Example]:
        """Those that it does not compare with."""
        compared = {tuple(example.input_ids) for example in self.benign}
        return [example for example in known if tuple(example.input_ids) not in compared]

    def refusals(self, aligned: AlignedModel) -> list[Example]:
        """The requests, with what the model says to them where it refuses.

        Raises:
            DataError: If it refuses none.
        """
        asked = questions_of(self.harmful)
        said = aligned.answers([question.prompt for question in asked], self.max_new_tokens, "Audit: short answers")
        refused = [(question, answer) for question, answer in zip(asked, said, strict=True) if aligned.is_refusal(answer)]
        if not refused:
            raise DataError(
                f"audit.unsafe must be prompts that the aligned model refuses, and it refuses none of these {len(asked)}. "
                "Give others, or leave conflict out of audit.scores."
            )
        return [
            Example(
                [*question.prompt, *answer],
                [IGNORE_INDEX] * len(question.prompt) + answer,
                self.harmful[question.place].row,
            )
            for question, answer in refused
        ]

    @property
    def _identity(self) -> str:
        """What tells these scores of a model from others."""
        compared = [_question(example) for example in (*self.harmful, *self.benign)]
        return text_hash(self.name, str(self.layers), str(compared), str(self.max_new_tokens))

    def _conflicts(self, aligned: AlignedModel) -> RowConflicts:
        harmful, benign, refusals = (
            [batch for _, batch in aligned.training_batches(rows, "Audit: references")]
            for rows in (self.harmful, self.benign, self.refusals(aligned))
        )
        upper = self.layers[len(self.layers) // 2 :]
        with aligned.computing():
            return RowConflicts(aligned.model, targets=upper, harmful=harmful, benign=benign, refusals=refusals)


def _question(example: Example) -> list[int]:
    return [*example.input_ids, _BEFORE_LABELS, *example.labels]
