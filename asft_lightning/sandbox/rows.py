"""From the language to the sandbox's files and the pools of rows that its models are trained on."""

import random
from dataclasses import dataclass

from asft_lightning.sandbox import language
from asft_lightning.sandbox.language import Line
from asft_lightning.sandbox.recipe import Recipe

_HARMLESS = 64
"""Rows in harmless.jsonl."""


@dataclass(frozen=True)
class Corpus:
    """All rows of one sandbox.

    Attributes:
        files: {file stem: rows}, what users see.
        pools: {pool: rows}, what the base and the aligned model are trained on; no held-out request is among them.
    """

    files: dict[str, list[Line]]
    pools: dict[str, list[Line]]


def unsafe_halves() -> tuple[dict[str, str], dict[str, str]]:
    """The training half and the test half of the unsafe objects, each as {object: kind}.

    Every second object of a kind goes into the test half, so that both halves hold all kinds.
    """
    halves: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for kind, things in language.UNSAFE_OBJECTS.items():
        for position, thing in enumerate(things.split()):
            halves[position % 2][thing] = kind
    return halves


def make_corpus(recipe: Recipe, seed: int) -> Corpus:
    """Draw the rows of a sandbox.

    Args:
        recipe: Says how many rows each file gets.
        seed: Decides which rows they are.

    Returns:
        Files and training pools, the same for the same arguments.
    """
    # A generator of its own: the caller's random state stays as it is.
    rng = random.Random(seed)
    training_half, test_half = unsafe_halves()
    known = _shuffled(language.how_to_rows(training_half), rng)
    unseen = _shuffled(language.how_to_rows(test_half), rng)
    how_to = _shuffled(language.how_to_rows(language.kinds_of(language.SAFE_OBJECTS)), rng)
    reviews = _shuffled(language.review_rows(), rng)

    # One held-out instruction in ten is a small question, each in one phrasing: the others are left to learn from.
    questions, candidates = _split_questions(language.question_rows())
    asked = _shuffled(candidates, rng)[: recipe.instructions // 10]
    held_out = how_to[len(asked) : recipe.instructions] + asked
    how_to = how_to[recipe.instructions :]
    prompts, unseen = unseen[: recipe.unsafe_prompts], unseen[recipe.unsafe_prompts :]
    test_reviews, reviews = reviews[: recipe.task_test], reviews[recipe.task_test :]
    files = {
        "benign": reviews[: recipe.benign],
        "harmful": known[: recipe.harmful],
        "unsafe_prompts": [language.refused(row) for row in prompts],
        "task_test": test_reviews,
        "instructions": _shuffled(held_out, rng),
        "refusals": [language.refused(row) for row in known[recipe.harmful : recipe.harmful + recipe.refusals]],
        "harmless": how_to[:_HARMLESS],  # what the aligned model has learnt to answer
    }
    pools = {
        "how_to": how_to,
        "unsafe": known + unseen,
        "refusals": [language.refused(row) for row in known + unseen],
        "questions": questions,
        # Twice as many as the user gets; the space of reviews is far larger.
        "reviews": [language.in_a_sentence(row, i) for i, row in enumerate(reviews[recipe.benign : 3 * recipe.benign])],
    }
    return Corpus(files, pools)


def _split_questions(rows: list[Line]) -> tuple[list[Line], list[Line]]:
    """Part the questions into those to learn and one phrasing of each to hold out, every phrasing in its turn."""
    phrasings = len(language.QUESTIONS[0][0])
    held_out = [row for index, row in enumerate(rows) if index % phrasings == index // phrasings % phrasings]
    return [row for row in rows if row not in held_out], held_out


def _shuffled(rows: list[Line], rng: random.Random) -> list[Line]:
    return rng.sample(rows, len(rows))
