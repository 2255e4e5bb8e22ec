"""Python's garbage collector while very many objects come about that are there to stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_full_collections() -> Iterator[None]:
    """Put off looking through all objects, which takes longer with each of them; new ones are still looked through."""
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], 2**31 - 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
