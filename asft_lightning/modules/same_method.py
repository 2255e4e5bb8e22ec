"""What a run is trained by, kept in its checkpoints: whoever goes on from one goes on so, or is refused."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from asft_lightning.errors import ConfigurationError

_KEY = "trained_as"
_BUILT = frozenset({"anchors_sha256", "answers_sha256"})
"""What follows from settings that count; built again on another machine, it may differ in the last bits."""
_SHOWN = 60
"""Characters of a setting in an error."""


def settings_of(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """What a run is trained by, as JSON by name; of a path its last part, since folders move.

    >>> settings_of({"method": "AsFT", "aligned": "/models/chat", "lora": {"r": 8}, "anchors_sha256": "5e"})
    {'method': '"AsFT"', 'aligned': '"chat"', 'lora.r': '8'}
    """
    counted = {name: value for name, value in fingerprint.items() if name not in _BUILT}
    return {name: json.dumps(value, default=str) for name, value in _flat(counted)}


def note_settings(settings: Mapping[str, str], checkpoint: dict[str, Any]) -> None:
    """Keep the settings in a checkpoint."""
    checkpoint[_KEY] = dict(settings)


def require_same_settings(settings: Mapping[str, str], checkpoint: Mapping[str, Any], since: Collection[str] = ()) -> None:
    """Refuse to go on from a checkpoint of a run that was trained by something else: its summary would vouch for both.

    One that says nothing, as of an earlier version, is gone on from, and so is one without the names in ``since``, which
    earlier versions did not keep.

    Raises:
        ConfigurationError: If it was; names the first setting that differs.
        ValueError: If what the checkpoint says is of another kind.
    """
    before = checkpoint.get(_KEY, settings)
    if not isinstance(before, Mapping) or not all(isinstance(value, str) for value in before.values()):
        raise ValueError(f"{_KEY} is of another kind")
    for name in {**before, **settings}:
        if name in since and name not in before:
            continue
        was, is_now = before.get(name, "nothing"), settings.get(name, "nothing")
        if was != is_now:
            raise ConfigurationError(
                f"a run goes on as it began, and this checkpoint was trained with {name} {was[:_SHOWN]}, not "
                f"{is_now[:_SHOWN]}. Give the same again (a folder that moves keeps its name), or begin a new run from its "
                "adapter, with model.init_args.adapter."
            )


def _flat(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", _placeless(value)


def _placeless(value: Any) -> Any:
    if isinstance(value, str):
        return value.rstrip("/").rpartition("/")[2]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return [_placeless(part) for part in value] if isinstance(value, (list, tuple)) else value
