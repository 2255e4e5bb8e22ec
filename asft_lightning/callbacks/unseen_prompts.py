"""What is scored must be new to what protects the model."""

from collections.abc import Collection, Sequence

from asft_lightning.chat.rows import Row, prompt_hash
from asft_lightning.errors import DataError


def require_unseen(label: str, rows: Sequence[Row], seen: Collection[str], what_saw: str, remedy: str) -> None:
    """Refuse prompts that a model is protected by: a score on them would measure memory.

    Args:
        label: The scorer's.
        rows: The prompts.
        seen: Hashes of those that are not to be among them (:func:`prompt_hash`).
        what_saw: Completes "prompts to score must not be those …".
        remedy: What to do instead.

    Raises:
        DataError: If some are.
    """
    if known := [row.prompt for row in rows if prompt_hash(row.prompt) in seen]:
        raise DataError(
            f"{label}: prompts to score must not be those {what_saw}, and {len(known)} like {known[0]!r:.60} are. {remedy}"
        )
