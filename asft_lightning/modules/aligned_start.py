"""A method that keeps an aligned model aligned starts from one."""

from asft_lightning.errors import ConfigurationError
from asft_lightning.weights.pretrained import Pretrained


def require_aligned_start(pretrained: Pretrained, method: str) -> None:
    """Refuse to start from the base model, before anything is loaded.

    Args:
        pretrained: The checkpoints.
        method: Its name.

    Raises:
        ConfigurationError: If ``start`` is not ``aligned``.
    """
    if pretrained.start != "aligned":
        raise ConfigurationError(
            f"{method} keeps an aligned model aligned, and pretrained.start is {pretrained.start}: there is nothing "
            "to keep. Leave start at aligned."
        )
