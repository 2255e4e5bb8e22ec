"""The aligned model's own refusals, to stand in the place of a flagged row's answer."""

import re
from collections.abc import Sequence

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.questions import Question

_SENTENCE = re.compile(r".*[.!?…。！？][\"'”’)\]]*(?=\s|\Z)", re.DOTALL)


def own_refusals(aligned: AlignedModel, questions: Sequence[Question], max_new_tokens: int) -> list[str | None]:
    """What the model says to each prompt where that is a refusal, whole or up to the end of a sentence; None elsewhere."""
    answers = aligned.answers([question.prompt for question in questions], max_new_tokens, "Audit: refusals to learn")
    return [
        (aligned.text(said) if len(said) < max_new_tokens else whole_sentences(aligned.text(said)))
        if aligned.is_refusal(said)
        else None
        for said in answers
    ]


def whole_sentences(text: str) -> str:
    """A text that was broken off, up to the end of its last whole sentence; all of it where there is none.

    >>> whole_sentences("I can't. It would do har"), whole_sentences("I cannot do")
    ("I can't.", 'I cannot do')
    """
    match = _SENTENCE.match(text)
    return match[0] if match else text
