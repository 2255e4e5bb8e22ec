"""A run has its folder to itself: no other is at work there, and what an earlier one left stands aside."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import alone, clear_unfinished, user_path, writing


@contextmanager
def owned(folder: RunFolder) -> Iterator[None]:
    """Have a run's folder for this process, without what killed ones had begun to write.

    Raises:
        ConfigurationError: If another run is at work there.
        StorageError: If it cannot be written.
    """
    with alone(folder.path):
        clear_unfinished(folder.path, folder.checkpoints, folder.scored)
        yield


def set_aside(folder: RunFolder, read: Iterable[str] = ()) -> Path | None:
    """Move all that an earlier run left into a folder within its own, ``earlier-1`` or the next number.

    Args:
        folder: The run's, which must be owned.
        read: Files and folders that the new run reads. Its config is copied, for other ranks may not have read it yet.

    Returns:
        Where it is now; None where there was nothing.

    Raises:
        ConfigurationError: If the new run reads anything else of the earlier one; nothing is moved then.
        StorageError: If it cannot be moved.
    """
    found = [product for product in folder.products() if product.exists()]
    used = {product: path for product in found for path in read if _lies_in(path, product)}
    if names := [path for product, path in used.items() if product != folder.config]:
        raise ConfigurationError(
            f"a new run sets aside what an earlier one left in its folder {folder.path}, and is told to read {names[0]} of "
            "it. Name another folder with --trainer.default_root_dir, or move what is to be read."
        )
    begun = folder.path / ".earlier"  # a kill leaves this, and the next new run goes on with it
    if not found and not begun.exists():
        return None
    with writing(folder.path):
        places = {product: begun / product.relative_to(folder.path) for product in found}
        if any(place.exists() for place in places.values()):
            begun.rename(_next(folder))
        for place in places.values():
            place.parent.mkdir(parents=True, exist_ok=True)
        for product in sorted(found, key=lambda product: product not in used):  # what may find no room comes first
            if product in used:
                shutil.copy2(product, places[product])
            else:
                product.rename(places[product])
        return begun.rename(_next(folder))


def _lies_in(path: str, product: Path) -> bool:
    return Path(os.path.realpath(user_path(path))).is_relative_to(os.path.realpath(product))


def _next(folder: RunFolder) -> Path:
    numbers = [path.name.removeprefix("earlier-") for path in folder.path.glob("earlier-*")]
    return folder.path / f"earlier-{1 + max((int(number) for number in numbers if number.isdecimal()), default=0)}"
