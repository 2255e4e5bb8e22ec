"""UpdatePenalty: the anchors bound to a model's LoRA layers, by name."""

import logging
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.errors import UnpenalisedError
from asft_lightning.penalty.layer_groups import BoundLayer, BoundTerm, LayerGroup
from asft_lightning.penalty.reference_penalty import held_prompts
from asft_lightning.weights.targets import (
    LoRAFactors,
    find_lora_factors,
    require_only_bound_trainable,
    require_zero_start,
)

_log = logging.getLogger(__name__)


class UpdatePenalty(nn.Module):
    """Σ_l ‖(I − C_l) B_l A_l‖²_F over the LoRA layers of a model: call it without arguments, add λ times it to the loss.

    The sum runs over every anchor of the set (times its weight) and every trainable adapter. Layers of one shape go
    through one batched product, so the number of kernels does not grow with depth. Anchors stay float32 (or wider)
    whatever the module is cast to, autocast is off inside, and nothing of it is in the ``state_dict``: anchors have a
    file of their own.

    Args:
        model: A model with PEFT LoRA layers, wrapped or not.
        anchors: What :func:`build_anchors` made for it.
        scale_update: Penalise (α/r)·B·A, the true update, instead of the bare product of the authors' code.
        resumed: The adapter was trained from this aligned model before, so that B·A need not be 0 now.
        allow_unpenalised: Let other parameters be trained too, unseen by the penalty; they are logged.
        anchors_on_host: Keep the directions in (pinned) host memory, and copy them to the factors' device at each call:
            device memory for time.

    Raises:
        UnpenalisedError: If something would be trained that no anchor sees, or an anchor finds no layer.

    Example::

        anchors = build_anchors(model=model, aligned="org/model-chat", base="org/model", anchors=[Gram()])
        penalty = UpdatePenalty(model, anchors)
        loss = task_loss + 1.0 * penalty()
    """

    def __init__(
        self,
        model: nn.Module,
        anchors: AnchorSet,
        *,
        scale_update: bool = False,
        resumed: bool = False,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
    ) -> None:
        super().__init__()
        factors = find_lora_factors(model)
        _require_same_modules(factors, anchors)
        self.unpenalised = require_only_bound_trainable(model, factors, allow_unpenalised)
        if self.unpenalised:
            _log.warning("trained without a penalty: %s", ", ".join(self.unpenalised))
        if not resumed:
            require_zero_start(factors)
        self.prompts = frozenset(prompt for term in anchors.terms for prompt in term.prompts)
        """A hash of each prompt that the anchors looked at (:func:`prompt_hash`), for those must not be scored."""
        groups: defaultdict[tuple[object, ...], list[BoundLayer]] = defaultdict(list)
        for factor in factors:
            member = BoundLayer(factor, [BoundTerm.of(term, factor, scale_update) for term in anchors.terms])
            groups[member.kind].append(member)
        self.groups = nn.ModuleList(LayerGroup(members, anchors_on_host) for members in groups.values())

    def forward(self) -> Tensor:
        """The penalty, a float32 scalar (float64 where the factors are) on the factors' device, never negative."""
        return torch.stack([group() for group in self.groups]).sum()


def probed_prompts(module: nn.Module) -> frozenset[str]:
    """A hash of each prompt that a module is protected by: its anchors were built from it, or its answer is held."""
    penalties = (part for part in module.modules() if isinstance(part, UpdatePenalty))
    return held_prompts(module) | {prompt for penalty in penalties for prompt in penalty.prompts}


def _require_same_modules(factors: Sequence[LoRAFactors], anchors: AnchorSet) -> None:
    """Every trained layer has its anchor and every anchor its layer, of the same shape."""
    layers = {factor.target.name: factor.target.shape for factor in factors}
    rule = "anchors and trained LoRA layers must be the same modules"
    remedy = "Build the anchors for this model and these target_modules."
    if missing := sorted(layers.keys() - anchors.shapes.keys()):
        raise UnpenalisedError(f"{missing[0]}: {rule}, but {len(missing)} layer(s) like this one have no anchor. {remedy}")
    if idle := sorted(anchors.shapes.keys() - layers.keys()):
        raise UnpenalisedError(f"{idle[0]}: {rule}, but {len(idle)} anchor(s) like this one have no layer. {remedy}")
    for name, shape in layers.items():
        if tuple(anchors.shapes[name]) != shape:
            raise UnpenalisedError(f"{name}: {rule}, but its anchor is for {anchors.shapes[name]}, it is {shape}. {remedy}")
