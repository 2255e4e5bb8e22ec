"""Token ids against a model's embedding: one beyond it is a fault deep inside the model, or on a GPU no message at all."""

from collections.abc import Iterable, Sequence

from asft_lightning.errors import ConfigurationError


def require_known(rows: Iterable[Sequence[int]], size: int, what: str) -> None:
    """Refuse token ids that a model has no embedding for.

    Args:
        rows: Token ids.
        size: How many the model has embeddings for.
        what: Whose they are, for the error.

    Raises:
        ConfigurationError: If one is beyond them.
    """
    highest = max((max(row) for row in rows if row), default=0)
    if highest >= size:
        raise ConfigurationError(
            f"{what}: token ids must be below the {size} that the model has embeddings for, got {highest}. Is the tokenizer "
            "another model's, or were tokens added to it (a pad token, say) without resizing the model's embeddings?"
        )
