"""The run of ``asft-lightning protect``: mistakes that can be seen beforehand are said in a line, before all else."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice

from asft_lightning.anchors.anchor import needs_of
from asft_lightning.commands.fit import AsFTCLI
from asft_lightning.data import Source
from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.modules.anchored import Anchored
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.named_configs import with_found_configs
from asft_lightning.runtime.terminal import say

_LOOKED_AT = 1000
"""Rows that are read beforehand."""


def require_model_and_rows(model: str, answered: Sequence[str | None], prompts: Sequence[str | None]) -> None:
    """Refuse files that cannot be meant.

    Args:
        model: Of which a folder or a hub id is wanted.
        answered: Sources whose rows must have answers; None is none.
        prompts: Sources of prompts.

    Raises:
        ConfigurationError: If the model is a file.
        DataError: If a source has no first rows, or of rows to learn or to compare with none an answer.
    """
    if user_path(model).is_file():
        raise ConfigurationError(
            f"the model must be a folder or a hub id, and {model} is a file. The model comes first, then the rows: "
            "asft-lightning protect MODEL ROWS."
        )
    for path in filter(None, prompts):
        next(Source(path).iterate())
    for path in filter(None, answered):
        rows = list(islice(Source(path).iterate(), _LOOKED_AT))
        if not any(row.answer.strip() for row in rows):
            raise DataError(
                f"rows must have answers, and none of the {len(rows)} looked at in {path} has one. End each chat with the "
                "assistant's turn, or name the column with answers `output`."
            )


def require_numbers(counts: Mapping[str, int | None], rate: float | None) -> None:
    """Refuse numbers with which nothing would be trained.

    Raises:
        ConfigurationError: If a count is below 1, or the learning rate no positive number.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigurationError(f"{name} must be 1 or more, got {count}. Leave it out for the default.")
    if rate is not None and not 0 < rate < math.inf:
        raise ConfigurationError(f"lr must be a positive number, got {rate}. Leave it out for the default.")


def fit_checked(arguments: list[str], *texts: str) -> None:
    """Run ``asft-lightning fit``, and say ``texts`` when its settings are known to go together.

    Raises:
        ConfigurationError: If they do not, or the method needs a base model and has none.
    """

    class Checked(AsFTCLI):
        """The command line of this run."""

        def after_instantiate_classes(self) -> None:
            """Model, data and trainer are there, and no folder is touched."""
            _require_base(self.model)
            if self.trainer.is_global_zero:
                say(*texts)

    Checked(with_found_configs(arguments))


def _require_base(module: object) -> None:
    if (
        isinstance(module, Anchored)
        and module.holds_updates
        and "base" in needs_of(module.anchors)
        and module.pretrained.base is None
    ):
        raise ConfigurationError(
            "this method holds the update by W_aligned − W_base, which needs the model before its alignment, and none is "
            "given. Give --base, or take a method that does without, as protect."
        )
