"""Models of Transformers: their configuration, their shapes, and all of their weights, or one clear error."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.reading import is_finite
from asft_lightning.weights.config_safety import require_layers, require_no_kernel, require_size
from asft_lightning.weights.files import has_weights, require_sound
from asft_lightning.weights.loading import load_pretrained, shown
from asft_lightning.weights.locations import resolve


def load_configuration(location: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A model's configuration, which neither names code to fetch nor tells of more layers than there are weights.

    Args:
        location: Hub id, directory, or ``sandbox:`` part.
        revision: On the hub.
        trust_remote_code: Run Python code that comes with the checkpoint.

    Raises:
        ConfigurationError: As :func:`load_pretrained`; or if it does.
    """
    plain, _ = load_pretrained(PretrainedConfig.get_config_dict, location, revision)
    require_no_kernel(plain, location)
    folder = Path(resolve(location))
    if has_weights(folder):
        require_layers(plain, folder, location)
    return load_pretrained(AutoConfig.from_pretrained, location, revision, trust_remote_code=trust_remote_code)


def load_on_meta(kind: Any, location: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model's modules and shapes, without its weights.

    Args:
        kind: One of Transformers' auto classes.
        location: Hub id, directory, or ``sandbox:`` part.
        revision: On the hub.
        trust_remote_code: Run Python code that comes with the checkpoint.

    Raises:
        ConfigurationError: As :func:`load_configuration`; or if the files are too small to hold it.
    """
    config = load_configuration(location, revision, trust_remote_code)

    def made(_: str, **how: Any) -> PreTrainedModel:
        del how["revision"]
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config, **how)
        return model

    model = load_pretrained(made, location, trust_remote_code=trust_remote_code)
    if has_weights(folder := Path(resolve(location))):
        require_size(model, folder, location)
    return model


def load_model(
    kind: Any, location: str, revision: str | None = None, new_head: bool = False, **settings: Any
) -> PreTrainedModel:
    """A model with all of its weights, which are finite numbers.

    Args:
        kind: One of Transformers' auto classes.
        location: Hub id, directory, or ``sandbox:`` part.
        revision: On the hub.
        new_head: Whether what stands on top of the body, its pooler among it, may be drawn at random, to be trained.
        settings: Further arguments of its ``from_pretrained``.

    Raises:
        ConfigurationError: As :func:`load_on_meta`; or if weights are absent, of another shape, no floating-point
            numbers, or not finite.
    """
    settings = {"trust_remote_code": False} | settings
    if (folder := Path(resolve(location))).is_dir():
        require_sound(folder)
    load_on_meta(
        kind, location, revision, settings["trust_remote_code"]
    )  # what cannot be is said before memory is asked for
    # Transformers draws what is absent at random, and only tells.
    model: PreTrainedModel
    settings |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = load_pretrained(kind.from_pretrained, location, revision, **settings)
    head = {name for name, _ in model.named_parameters() if new_head and _is_above(model, name)}
    if missing := sorted(report["missing_keys"] - head):
        raise ConfigurationError(
            f"a checkpoint must hold all of its weights, and {location!r} lacks {shown(missing)}, which would be "
            "random. Get it again, or give one that was trained for this."
        )
    if mismatched := [(str(n), tuple(a), tuple(b)) for n, a, b in report["mismatched_keys"] if str(n) not in head]:
        name, shape, expected = min(mismatched)
        raise ConfigurationError(
            f"{name}: the weight in {location!r} must have the shape {expected} of its config.json, got {shape}. Get both "
            "files of one version."
        )
    for name, parameter in model.named_parameters():
        if not is_finite(parameter):
            raise ConfigurationError(f"{name}: weights must be finite, but {location!r} holds NaN or Inf. Get it again.")
    return model


def _is_above(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight belongs to the head, not to the body that all heads of this architecture share."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name
