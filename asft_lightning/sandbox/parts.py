"""The pair that is shipped with the package, frozen: where its parts lie, and how they were made."""

import hashlib
import json
from pathlib import Path
from typing import Any

from asft_lightning.errors import ConfigurationError

FROZEN = Path(__file__).resolve().parent / "frozen"
"""The folder of the shipped parts."""
MODELS = ("aligned", "base")
FILES = ("benign", "harmful", "unsafe_prompts", "task_test", "instructions", "refusals", "harmless")
PARTS = {name: name for name in MODELS} | {name: f"{name}.jsonl" for name in FILES}
_RECORD = "recipe.json"


def sandbox_path(part: str) -> Path:
    """The path of one part of the shipped sandbox.

    Args:
        part: 'aligned' or 'base' (folders for `from_pretrained`), or 'benign', 'harmful', 'unsafe_prompts',
            'task_test', 'instructions', 'refusals' or 'harmless' (.jsonl files with `instruction` and `output`).

    Raises:
        ConfigurationError: If there is no such part.
    """
    if part not in PARTS:
        raise ConfigurationError(
            f"a part of the sandbox must be one of {', '.join(PARTS)}, got {part!r}. Write one of these names."
        )
    return FROZEN / PARTS[part]


def shipped_record() -> dict[str, Any]:
    """How the shipped sandbox was made: ``recipe``, ``seed``, ``built_with`` (versions, kind of CPU), ``sha256`` by file."""
    record: dict[str, Any] = json.loads((FROZEN / _RECORD).read_text(encoding="utf-8"))
    return record


def file_hashes(folder: Path) -> dict[str, str]:
    """{path below the folder: SHA-256} of every file of a sandbox's parts."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _RECORD)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_shipped(folder: Path) -> bool:
    """Whether a sandbox has the weights and rows of the shipped one, to the bit."""
    wanted = [f"{model}/model.safetensors" for model in MODELS] + [PARTS[name] for name in FILES]
    hashes, shipped = file_hashes(folder), shipped_record()["sha256"]
    return all(hashes.get(name) == shipped[name] for name in wanted)
