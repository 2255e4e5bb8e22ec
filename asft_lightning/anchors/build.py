"""From two checkpoints to an AnchorSet, one matrix at a time."""

from collections.abc import Sequence

import torch
from torch import nn
from tqdm.auto import tqdm

from asft_lightning.anchors.anchor import Anchor, ModuleAnchor, WeightPair, describe
from asft_lightning.anchors.anchor_set import AnchorSet, AnchorTerm
from asft_lightning.anchors.checkpoints import Weights, WeightSource, open_weights
from asft_lightning.anchors.targets import Target, find_lora_factors
from asft_lightning.errors import AnchorError, AsFTError


def build_anchors(
    model: nn.Module,
    aligned: WeightSource | None = None,
    base: WeightSource | None = None,
    anchors: Sequence[Anchor] = (),
    *,
    revision: str | None = None,
    base_revision: str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> AnchorSet:
    """Build the anchors of every weight that ``model``'s trainable LoRA layers update.

    Only the two tensors of one matrix are read at a time. ``model`` may lie on the meta device: only names and shapes of
    its layers are looked at.

    Args:
        model: A model with PEFT LoRA layers.
        aligned: The aligned model's weights: hub id, directory, live module, or {name: tensor}.
        base: The unaligned model's weights, likewise.
        anchors: The variants to sum, e.g. ``[Gram()]``.
        revision: Revision of ``aligned`` on the hub.
        base_revision: Revision of ``base`` on the hub.
        device: Where to compute, e.g. ``cuda``; None for where the weights are. The anchors end on the CPU.
        progress: Whether to show a progress bar.

    Raises:
        AnchorError: If no anchor is asked for, or one cannot be built; names the module.
        UnpenalisedError: If the model has LoRA layers that cannot be penalised.
        ConfigurationError: If a checkpoint cannot be read.
    """
    if not anchors:
        raise AnchorError("a protected run needs at least one anchor, got none. Pass anchors=[Gram()].")
    targets = list({factor.target.name: factor.target for factor in find_lora_factors(model)}.values())
    needs = frozenset().union(*(anchor.needs for anchor in anchors))
    weights = WeightPair(
        _open(aligned, revision) if "aligned" in needs else None,
        _open(base, base_revision) if "base" in needs else None,
        device,
    )
    modules: list[dict[str, ModuleAnchor]] = [{} for _ in anchors]
    bar = tqdm(targets, desc=f"Anchors ({describe(anchors)})", unit="matrix", disable=not progress, leave=False)
    for target in bar:
        for anchor, built in zip(anchors, modules, strict=True):
            built[target.name] = _built(anchor, target, weights)
    terms = tuple(AnchorTerm(a.settings(), a.weight, built) for a, built in zip(anchors, modules, strict=True))
    return AnchorSet({target.name: target.shape for target in targets}, terms)


def _open(source: WeightSource | None, revision: str | None) -> Weights | None:
    return None if source is None else open_weights(source, revision)


def _built(anchor: Anchor, target: Target, weights: WeightPair) -> ModuleAnchor:
    try:
        return anchor.build(target, weights)
    except AsFTError:
        raise
    except ValueError as error:  # the pure functions know the rule, not the module
        raise AnchorError(f"{target.name}: {error}") from error
