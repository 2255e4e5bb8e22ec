"""BoundPenalty: anchors bound by name to what a model trains; and what must be so for nothing to go unprotected."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.errors import UnpenalisedError

_log = logging.getLogger(__name__)


class _Member(Protocol):
    @property
    def kind(self) -> tuple[object, ...]: ...


M = TypeVar("M", bound=_Member)


class BoundPenalty(nn.Module):
    """The sum of the penalties of groups of layers: call it without arguments, add λ times it to the loss.

    Args:
        groups: Each gives the penalty of its layers.
        anchors: What they are penalised by.
        unpenalised: The names of what is trained unseen by them, by leave; they are logged.
    """

    def __init__(self, groups: Iterable[nn.Module], anchors: AnchorSet, unpenalised: Sequence[str]) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.unpenalised = list(unpenalised)
        if self.unpenalised:
            _log.warning("trained without a penalty: %s", ", ".join(self.unpenalised))
        self.prompts = frozenset(prompt for term in anchors.terms for prompt in term.prompts)
        """A hash of each prompt that the anchors looked at (:func:`prompt_hash`), for those must not be scored."""

    def forward(self) -> Tensor:
        """The penalty, a float32 scalar (float64 where what is trained is) on its device, never negative."""
        return torch.stack([group() for group in self.groups]).sum()


def by_kind(members: Iterable[M]) -> list[list[M]]:
    """The layers that go through one batched product together, in their order."""
    groups: defaultdict[tuple[object, ...], list[M]] = defaultdict(list)
    for member in members:
        groups[member.kind].append(member)
    return list(groups.values())


def require_same_modules(layers: Mapping[str, tuple[int, int]], anchors: AnchorSet, what: str, remedy: str) -> None:
    """Every trained layer has its anchor and every anchor its layer, of the same shape.

    Args:
        layers: {name: (d_out, d_in)} of what is trained.
        anchors: The anchors.
        what: What the layers are, for an error.
        remedy: What to do, likewise.

    Raises:
        UnpenalisedError: If not; names the module.
    """
    rule = f"anchors and trained {what} must be the same modules"
    if missing := sorted(layers.keys() - anchors.shapes.keys()):
        raise UnpenalisedError(f"{missing[0]}: {rule}, but {len(missing)} layer(s) like this one have no anchor. {remedy}")
    if idle := sorted(anchors.shapes.keys() - layers.keys()):
        raise UnpenalisedError(f"{idle[0]}: {rule}, but {len(idle)} anchor(s) like this one have no layer. {remedy}")
    for name, shape in layers.items():
        if tuple(anchors.shapes[name]) != shape:
            raise UnpenalisedError(f"{name}: {rule}, but its anchor is for {anchors.shapes[name]}, it is {shape}. {remedy}")
