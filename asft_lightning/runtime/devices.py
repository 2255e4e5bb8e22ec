"""Where to compute, as a user says it."""

import torch

from asft_lightning.errors import ConfigurationError


def usable_device(name: str) -> torch.device:
    """A device of this machine.

    Args:
        name: E.g. ``cuda`` or ``cpu``.

    Raises:
        ConfigurationError: If it cannot be used here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"device {name!r} cannot be used here: {reason}. Leave it out for the default.") from error


def device_name(device: torch.device) -> str:
    """What a person calls it: the maker's name of a GPU, otherwise its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
