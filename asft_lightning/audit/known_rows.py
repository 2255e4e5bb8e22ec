"""KnownRows: rows that are known to be harmless and prompts that are known to be unsafe, to measure training rows by."""

from dataclasses import dataclass
from typing import Self

from asft_lightning.chat.rows import Row
from asft_lightning.data.audit import Audit
from asft_lightning.data.by_turns import first_rows
from asft_lightning.data.draw import Pool, draw
from asft_lightning.data.example import Example
from asft_lightning.data.mixture_data_module import MixtureDataModule
from asft_lightning.evaluation import RefusalJudge
from asft_lightning.functional import IGNORE_INDEX

_OPENING = "Sure, here is how to do it"
"""How an answer complies that is not told."""


@dataclass(frozen=True)
class KnownRows:
    """What the user knows.

    Args:
        harmless: Rows.
        unsafe: Prompts; of their answers no more than the end of the turn.
        complying: The same, with their own answers where those comply, or else with an opening that does.
    """

    harmless: list[Example]
    unsafe: list[Example]
    complying: list[Example]

    @classmethod
    def read(cls, audit: Audit, data: MixtureDataModule) -> Self:
        """Those that an audit names, as the data writes its rows.

        Raises:
            DataError: If they cannot be read.
        """
        harmless, unsafe, complying = [], [], []
        if audit.harmless is not None:
            rows = first_rows(audit.harmless, audit.num_harmless)
            harmless = draw(Pool(rows, name=audit.harmless.path), data.encode, None, seed=0)
        if audit.unsafe is not None:
            prompts = first_rows(audit.unsafe, audit.num_unsafe)
            unsafe = [_unanswered(row, data) for row in prompts]
            complying = draw(Pool([_complying(row) for row in prompts], name="audit.unsafe"), data.encode, None, seed=0)
        return cls(harmless, unsafe, complying)

    @property
    def content(self) -> str:
        """What tells these rows from others."""
        return str([[example.input_ids for example in kind] for kind in (self.harmless, self.unsafe, self.complying)])


def _complying(row: Row) -> Row:
    is_told = row.answer.strip() and not RefusalJudge().is_refusal(row.answer)
    return row._replace(answer=row.answer if is_told else _OPENING, kind="harmful")


def _unanswered(row: Row, data: MixtureDataModule) -> Example:
    assert data.tokenizer is not None
    prompt, end = (
        data.template.prompt_ids(data.tokenizer, row.prompt, row.history),
        data.template.end(data.tokenizer).token_id,
    )
    return Example([*prompt, end], [IGNORE_INDEX] * len(prompt) + [end], row, "harmful")
