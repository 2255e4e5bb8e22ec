"""Which scores there are, and what each is made of."""

from collections.abc import Callable, Mapping, Sequence

from asft_lightning.audit.conflict import Conflict
from asft_lightning.audit.known_rows import KnownRows
from asft_lightning.audit.likeness import Likeness
from asft_lightning.audit.questions import questions_of
from asft_lightning.audit.refused import Refused
from asft_lightning.audit.score import Score
from asft_lightning.audit.surprise import Surprise
from asft_lightning.data.audit import Audit, ScoreName
from asft_lightning.errors import DataError

Layers = Callable[[], Sequence[str]]
"""Names, in the plain model, of the layers that are to be trained."""

_COMPARED = 32
"""Rows of each kind that ``conflict`` compares with: more move it little, and each takes a pass there and back."""


def asked_scores(audit: Audit, known: KnownRows, layers: Layers | None) -> list[Score]:
    """The scores that an audit asks for.

    Args:
        audit: The settings.
        known: What the user knows.
        layers: What is to be trained; None where the module does not say.

    Raises:
        DataError: If one needs to know what is to be trained.
    """
    return [SCORES[name](audit, known, layers) for name in audit.scores]


def _likeness(_: Audit, known: KnownRows, __: Layers | None) -> Likeness:
    unsafe, harmless = questions_of(known.unsafe), questions_of(known.harmless[::2])
    return Likeness(tuple(tuple(asked.prompt) for asked in unsafe), tuple(tuple(asked.prompt) for asked in harmless))


def _conflict(audit: Audit, known: KnownRows, layers: Layers | None) -> Conflict:
    if layers is None:
        raise DataError(
            "audit.scores conflict asks which layers are trained, and this module does not say. Give it a method "
            "trained_layers, as LoRAFineTuner has, or leave conflict out."
        )
    apart = max(1, len(known.harmless) // _COMPARED)
    benign = known.harmless[::apart][:_COMPARED]
    return Conflict(tuple(layers()), tuple(known.complying[:_COMPARED]), tuple(benign), audit.max_new_tokens)


SCORES: Mapping[ScoreName, Callable[[Audit, KnownRows, Layers | None], Score]] = {
    "refused": lambda audit, *_: Refused(audit.max_new_tokens),
    "surprise": lambda audit, *_: Surprise(audit.max_new_tokens),
    "likeness": _likeness,
    "conflict": _conflict,
}
"""{name of a score: what makes it}."""
