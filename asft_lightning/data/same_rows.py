"""What a checkpoint keeps of a run's data: enough to say on resume whether it is the same, and if not, what has changed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from asft_lightning.chat.template import Template
from asft_lightning.data.example import Example
from asft_lightning.data.mixture import Mixture
from asft_lightning.errors import DataError

_ALL, _DATE = "data_sha256", "date"
_PARTS = {
    "rows": "how many there are ({} before, {} now)",
    "texts_sha256": "their texts or their order (files, seed, poison_ratio?)",
    "template_sha256": "how they are written (template)",
    _DATE: "the date in them ({} before, {} now)",
}
"""{part: how a difference in it reads}; what is known before that of those that follow from it."""
_BATCHES = {
    "rows_a_batch": ("rows a batch, of all devices together, must stay {}, got {}", "Set batch_size × devices back"),
    "group_by_length": ("group_by_length must stay {}, got {}", "Set it back"),
}
"""{part: how a difference in it reads, and what to do}: what decides which rows come when."""


def identity(mixture: Mixture, template: Template) -> dict[str, str]:
    """Of training rows, and of what they follow from; plain data.

    Args:
        mixture: The rows.
        template: What wrote them.
    """
    trained = mixture.trained
    return {
        _ALL: mixture.fingerprint(),
        "rows": str(len(trained)),
        "texts_sha256": _sha256_of_texts(trained),
        "template_sha256": _sha256(replace(template, date=None)),
        _DATE: template.day,
    }


def batches(rows_a_batch: int, group_by_length: bool) -> dict[str, str]:
    """What decides which rows come when, to be kept beside the :func:`identity`.

    Args:
        rows_a_batch: Of all devices together.
        group_by_length: Whether those of a batch are of similar length.
    """
    return {"rows_a_batch": str(rows_a_batch), "group_by_length": str(group_by_length).lower()}


def require_same(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on with other rows than the run began with.

    Args:
        before: The :func:`identity` and :func:`batches` that were kept.
        now: That of the rows at hand.

    Raises:
        DataError: If they differ; says in what.
    """
    for part, (rule, remedy) in _BATCHES.items():
        if part in before and before[part] != now[part]:
            raise DataError(
                f"{rule.format(before[part], now[part])}: a resumed run goes on with the batch that it had come to. "
                f"{remedy}, or begin anew without ckpt_path."
            )
    if before[_ALL] == now[_ALL]:
        return
    changed = next((part for part in _PARTS if before.get(part) != now.get(part)), None)
    difference = _PARTS[changed].format(before[changed], now[changed]) if changed else "their token ids (the tokenizer)"
    remedy = f"Set template.date to {before[_DATE]}" if changed == _DATE else "Give it the files and settings it began with"
    raise DataError(
        f"a resumed run must train on the rows that it began with, and these differ in {difference}. "
        f"{remedy}, or begin anew without ckpt_path."
    )


def _sha256_of_texts(examples: Sequence[Example]) -> str:
    """:func:`_sha256` of the list of their rows, without the memory for all of it as one text."""
    digest = hashlib.sha256(b"[")
    for i, example in enumerate(examples):
        digest.update(f"{', ' if i else ''}{tuple(example.row)!r}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def _sha256(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()
