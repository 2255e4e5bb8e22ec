"""Where a sandbox lies on disk, and how it gets there in one piece."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import cache_folder, writing
from asft_lightning.sandbox.build import write_sandbox
from asft_lightning.sandbox.language import texts
from asft_lightning.sandbox.recipe import Recipe
from asft_lightning.weights.files import require_sound

MODELS = ("aligned", "base")
FILES = ("benign", "harmful", "unsafe_prompts", "task_test", "instructions", "refusals")
PARTS = {name: name for name in MODELS} | {name: f"{name}.jsonl" for name in FILES}


def sandbox_name(recipe: Recipe, seed: int) -> str:
    """The folder's name: it changes with every number of the recipe, every word of the language and the seed."""
    content = json.dumps([asdict(recipe), texts(), seed], sort_keys=True)
    return f"sandbox-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def build_sandbox(root: Path | None = None, seed: int = 0, recipe: Recipe | None = None) -> Path:
    """Return the folder of a finished sandbox, and build it first (about a minute) if it is absent.

    The folder appears by one rename, so an interrupted build leaves no sandbox, and of two processes that build at
    once the second throws its copy away. The caller's random state, default device and threads stay as they are.

    Args:
        root: Cache folder; `cache_folder()` if None.
        seed: Decides the rows and the weights.
        recipe: Sizes and training of the pair; the measured default if None.

    Returns:
        A folder with one folder or .jsonl file for each of `PARTS`.

    Raises:
        StorageError: If it cannot be written.
    """
    recipe = recipe or Recipe()
    folder = (cache_folder() if root is None else Path(root)) / sandbox_name(recipe, seed)
    if not is_finished(folder):
        with writing(folder), staged(folder) as staging:
            write_sandbox(staging, recipe, seed)
    return folder


def sandbox_path(part: str, root: Path | None = None) -> Path:
    """Return the path of one part of the default sandbox, which is built if it is absent.

    Args:
        part: 'aligned' or 'base' (folders for `from_pretrained`), or 'benign', 'harmful', 'unsafe_prompts',
            'task_test', 'instructions' or 'refusals' (.jsonl files with `instruction` and `output`).
        root: Cache folder; `cache_folder()` if None.

    Raises:
        ConfigurationError: (a ValueError) If there is no such part.
    """
    if part not in PARTS:
        raise ConfigurationError(
            f"a part of the sandbox must be one of {', '.join(PARTS)}, got {part!r}. Write one of these names."
        )
    return build_sandbox(root) / PARTS[part]


def is_finished(folder: Path) -> bool:
    """Whether the folder holds every part of a sandbox, and no weights that are cut short."""
    models = [folder / model / file for model in MODELS for file in ("config.json", "model.safetensors", "tokenizer.json")]
    there = all(path.exists() for path in [*models, *(folder / PARTS[name] for name in FILES)])
    try:
        for model in MODELS if there else ():
            require_sound(folder / model)
    except ConfigurationError:
        return False
    return there


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield an empty sibling of `folder`; sync it and rename it to `folder` if the block succeeds, else remove it."""
    staging = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    staging.mkdir(parents=True)
    try:
        yield staging
        _sync(staging)
        if folder.exists() and not is_finished(folder):
            shutil.rmtree(folder)  # somebody took parts of it away, or a disk did: no build ever writes here
        try:
            staging.rename(folder)
        except OSError:
            # A folder that is not empty cannot be renamed over: another process was first, and its copy is as good.
            if not is_finished(folder):
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring all files below the folder to the disk, so that the rename cannot overtake them in a crash."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
