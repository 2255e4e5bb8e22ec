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


def require_same(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on with other rows than the run began with.

    Args:
        before: The :func:`identity` that was kept.
        now: That of the rows at hand.

    Raises:
        DataError: If they differ; says in what.
    """
    if before[_ALL] == now[_ALL]:
        return
    changed = next((part for part in _PARTS if before[part] != now[part]), None)
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
