"""Questions: what the aligned model is asked about a training row."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from asft_lightning.chat.rows import Row, Turn
from asft_lightning.data.example import Example
from asft_lightning.functional import IGNORE_INDEX


class Question(NamedTuple):
    """One learnt answer of a row: a conversation has several, and any of them may be the harmful one.

    Attributes:
        place: Of the row among those that are asked about.
        turn: Which of its learnt answers, from 0.
        prompt: Token ids of all that comes before the answer, just as training puts them.
        answer: Token ids of what is learnt, with the end of the turn.
    """

    place: int
    turn: int
    prompt: list[int]
    answer: list[int]


def questions_of(examples: Sequence[Example]) -> list[Question]:
    """The questions about rows, in their order; none about safety rows, which teach refusals."""
    return [
        Question(place, turn, ids[:start], ids[start:end])
        for place, example in enumerate(examples)
        if example.kind != "safety"
        for ids in [example.input_ids]
        for turn, (start, end) in enumerate(_learnt_spans(example.labels))
    ]


def asked_alone(
    questions: Sequence[Question], examples: Sequence[Example], prompt_ids: Callable[[str], list[int]]
) -> list[Question]:
    """What system and user said before each answer of a conversation, each text as if it were all that is asked.

    A request may hide in a system prompt, or behind turns that make the model comply: alone it is as plain as any.

    Args:
        questions: Of :func:`questions_of`.
        examples: The rows they are about.
        prompt_ids: From a user's prompt to token ids.
    """
    said = {question.place: _said_before(examples[question.place].row) for question in questions}
    return [
        question._replace(prompt=prompt_ids(text))
        for question in questions
        if examples[question.place].row.history
        for text in said[question.place][question.turn]
    ]


def _said_before(row: Row) -> list[list[str]]:
    """For each learnt answer, what was said since the one before it, but by the assistant.

    >>> talk = (Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b"))
    >>> _said_before(Row("c", "d", talk))
    [['s', 'a'], ['c']]
    """
    said: list[list[str]] = [[]]
    for turn in (*row.history, Turn("user", row.prompt), Turn("assistant", row.answer)):
        if turn.role != "assistant":
            said[-1].append(turn.content)
        elif turn.learnt:
            said.append([])
    return said[:-1]


def _learnt_spans(labels: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of each run of labels that are learnt.

    >>> _learnt_spans([-100, 5, 6, -100, 7])
    [(1, 3), (4, 5)]
    """
    spans, start = [], 0
    for is_learnt, run in groupby(labels, lambda label: label != IGNORE_INDEX):
        end = start + len(list(run))
        if is_learnt and start:  # what nothing was said before, nobody can be asked
            spans.append((start, end))
        start = end
    return spans
