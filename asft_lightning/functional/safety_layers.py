"""Safety layers: where a model begins to tell unsafe prompts from harmless ones (arXiv 2408.17003)."""

from torch import Tensor, nn


def cosine_gap(harmless: Tensor, unsafe: Tensor) -> Tensor:
    """Of each layer, how much more alike two harmless prompts are than a harmless and an unsafe one, (layers,).

    The mean cosine over all pairs of different harmless prompts, minus that over all pairs of one of each.

    Args:
        harmless: Each layer's output at the last token (prompts, layers, width), two prompts or more.
        unsafe: Likewise, one prompt or more.
    """
    first, second = (nn.functional.normalize(states, dim=-1).transpose(0, 1) for states in (harmless, unsafe))
    count = first.shape[1]
    alike = ((first @ first.mT).sum((1, 2)) - count) / (count * (count - 1))
    return alike - (first @ second.mT).mean((1, 2))


def rising_layers(gap: Tensor, start: float = 1e-3, rise: float = 1e-4) -> list[int]:
    """The layers, from 0, at which the gap grows: the first by more than ``start``, from there on by more than ``rise``.

    Neither the first layer nor the last is one.

    Args:
        gap: :func:`cosine_gap`.
        start: Growth from the layer before that begins them.
        rise: Growth that goes on with them.
    """
    growth = gap.diff()[:-1].tolist()
    first = next((i for i, grown in enumerate(growth) if grown > start), len(growth))
    return [i + 1 for i, grown in enumerate(growth) if i == first or (i > first and grown > rise)]
