"""Where a fine-tuned model stands in a plane of two directions, and how it came there."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from asft_lightning.landscape.directions import Parts, Tuned, adapter_update
from asft_lightning.landscape.rays import Ray, cosines
from asft_lightning.landscape.space import Space
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.reading import readable, require_unpacked


def trail(run: str, name: str, space: Space) -> Iterator[Parts]:
    """The updates of a run's checkpoints from the first on, and that at its end; of an adapter or a model that alone.

    Args:
        run: Its place, as of :class:`Tuned`.
        name: What to call it.
        space: The weights that are moved.

    Raises:
        ConfigurationError: If something cannot be read, or does not fit.
    """
    folder = RunFolder(user_path(run))
    states = [_state(path) for path in folder.checkpoints.glob("*.ckpt")] if folder.adapter.is_dir() else []
    for step in sorted(found := dict(states)):
        yield adapter_update(folder.adapter, space, found[step])
    yield Tuned(run, name).open(space)


def projected(update: Ray, first: Ray, second: Ray, names: Sequence[str]) -> tuple[float, float, float]:
    """An update's place in a plane, by least squares.

    Args:
        update: The update, unscaled.
        first: A direction that spans the plane.
        second: The other; they need not be orthogonal.
        names: Of the weights.

    Returns:
        (α, β, the share of the update's norm that lies outside the plane, 0..1).
    """
    (to_first, to_second), (_, between), _ = cosines([update, first, second], [first, second], names)
    along = torch.tensor([to_first, to_second], dtype=torch.float64)
    gram = torch.tensor([[1.0, between], [between, 1.0]], dtype=torch.float64)
    unit = torch.linalg.lstsq(gram, along[:, None]).solution[:, 0]
    within = min(float(unit @ along), 1.0)
    alpha, beta = (unit * update.norm / torch.tensor([first.norm, second.norm], dtype=torch.float64)).tolist()
    return alpha, beta, math.sqrt(1.0 - max(within, 0.0))


def _state(path: Path) -> tuple[int, dict[str, Tensor]]:
    """The step and the factors of one of Lightning's checkpoints, named as PEFT writes them."""

    def read() -> tuple[int, dict[str, Tensor]]:
        require_unpacked(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        factors = {name.replace(".default.", "."): value for name, value in content["state_dict"].items()}
        return int(content["global_step"]), factors

    return readable(path, read, "a checkpoint")
