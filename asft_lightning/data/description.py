"""What a run is trained on: counts, lengths, what was cut or passed over, and how rows look to the model."""

from collections import Counter
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from transformers import PreTrainedTokenizerBase

from asft_lightning.data.conversations import UNREAD
from asft_lightning.data.example import Example
from asft_lightning.data.mixture import Mixture
from asft_lightning.functional import IGNORE_INDEX
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.runtime.terminal import as_html, say

_PASSED_OVER = {
    "where": "not where",
    "repeated": "repeated",
    "too_long": "too long",
    "blank_answer": "without answer",
    "blank_turns": "blank turns",
}
"""{count of a pool: how it reads}."""
_HEADINGS = ("source", "kind", "rows", "cut", "passed over", "tokens of prompt", "of answer")


class Description(dict[str, Any]):
    """What :func:`describe` says, a mapping of plain data that a notebook shows as a table."""

    def __repr__(self) -> str:
        """What is trained on, in a line."""
        return f"Description({_total(self)})"

    def _repr_html_(self) -> str:
        return as_html(_HEADINGS, [_cells(source) for source in self["sources"]], texts=2) + f"<p>{_total(self)}</p>"


def describe(mixture: Mixture, tokenizer: PreTrainedTokenizerBase, examples: int = 2) -> Description:
    """A mixture in plain data.

    Args:
        mixture: What was drawn.
        tokenizer: What its token ids are of.
        examples: How many rows of each source to show.

    Returns:
        ``rows`` ({kind: number} of training rows), ``held_out``, ``audit`` (what it says of itself, where there was one),
        and for each of ``sources`` its ``name``,
        ``kind``, ``counts`` (records read, passed over by reason, ``drawn``, ``trained`` on, and of those ``truncated``),
        ``tokens`` (of prompt and answer: least, median, 95th percentile, most) and ``examples`` (``text`` as the model
        sees it, and what of it is ``learnt``).
    """
    sources: list[dict[str, Any]] = [
        {
            "name": pool.name,
            "kind": pool.kind,
            "counts": {**pool.counts, "trained": len(drawn), "truncated": sum(example.truncated for example in drawn)},
            "tokens": _token_counts(drawn),
            "examples": [_written(example, tokenizer) for example in drawn[:examples]],
        }
        for pool in mixture.pools
        if (drawn := [example for example in mixture.trained if example.source == pool.name])
    ]
    facts: dict[str, Any] = {
        "rows": dict(Counter(example.kind for example in mixture.trained).most_common()),
        "held_out": len(mixture.held_out),
        **({} if mixture.audit is None else {"audit": mixture.audit}),
    }
    return Description(facts, sources=sources)


def show_description(description: dict[str, Any]) -> None:
    """Print :func:`describe`'s result as a table, with the first row of each source below it."""
    show(Sheet(_HEADINGS, [_cells(source) for source in description["sources"]], "Training rows", texts=2))
    say(_total(description))
    for source in description["sources"]:
        say(
            "",
            f"── {source['name']}, {source['kind']}: first row, then what of it is learnt",
            *source["examples"][0].values(),
        )


def _total(description: dict[str, Any]) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in description["rows"].items())
    return f"{sum(description['rows'].values())} in all: {kinds}; {description['held_out']} held out"


def _cells(source: dict[str, Any]) -> list[str]:
    counts, tokens = source["counts"], source["tokens"]
    passed = [f"{counts[key]} {reading}" for key, reading in _PASSED_OVER.items() if counts.get(key)]
    passed += [f"{count} {key}" for key, count in counts.items() if key.startswith(UNREAD)]
    lengths = [f"{tokens[part]['median']:.0f} to {tokens[part]['most']}" for part in ("prompt", "answer")]
    rows = f"{counts['trained']} of {counts.get('read', '?')}"
    return [source["name"], source["kind"], rows, str(counts["truncated"]), ", ".join(passed) or "–", *lengths]


def _token_counts(examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    prompts = [labels.count(IGNORE_INDEX) for _, _, labels in Example.unpacked(examples)]
    answers = [len(example) - prompt for example, prompt in zip(examples, prompts, strict=True)]
    return {"prompt": _spread(prompts), "answer": _spread(answers)}


def _spread(lengths: Sequence[int]) -> dict[str, float]:
    marks = quantiles(lengths, n=20, method="inclusive") if len(lengths) > 1 else [lengths[0]] * 19
    return {"least": min(lengths), "median": marks[9], "p95": marks[18], "most": max(lengths)}


def _written(example: Example, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    learnt = [label for label in example.labels if label != IGNORE_INDEX]
    return {"text": tokenizer.decode(example.input_ids), "learnt": tokenizer.decode(learnt)}
