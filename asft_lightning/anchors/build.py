"""From two checkpoints to an AnchorSet, one matrix at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.anchors.anchor import Anchor, WeightPair, needs_of, sum_label
from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.anchors.cache import AnchorCache, cache_key
from asft_lightning.anchors.probe import Probe
from asft_lightning.anchors.term import AnchorTerm
from asft_lightning.chat.template import Template
from asft_lightning.errors import AnchorError
from asft_lightning.runtime.files import cache_folder
from asft_lightning.weights.matrices import Weights, WeightSource, open_weights
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.targets import Target
from asft_lightning.weights.trained_weights import trained_targets


def build_anchors(
    model: nn.Module,
    aligned: WeightSource | None = None,
    base: WeightSource | None = None,
    anchors: Sequence[Anchor] = (),
    *,
    revision: str | None = None,
    base_revision: str | None = None,
    device: torch.device | str | None = None,
    cache: str | Path | None = None,
    probe: Probe | None = None,
    progress: bool = True,
) -> AnchorSet:
    """Build the anchors of every weight matrix that training changes: by LoRA layers, or itself.

    Only the two tensors of one matrix are read at a time. ``model`` may lie on the meta device: only names and shapes of
    its layers are looked at.

    Args:
        model: A model with PEFT LoRA layers, or a plain one whose linear layers are trained, as far as they are trainable.
        aligned: The aligned model's weights: hub id, directory, live module, or {name: tensor}.
        base: The unaligned model's weights, likewise.
        anchors: The variants to sum, e.g. ``[Gram()]``.
        revision: Revision of ``aligned`` on the hub.
        base_revision: Revision of ``base`` on the hub.
        device: Where to compute, e.g. ``cuda``; None for where the weights are. The anchors end on the CPU.
        cache: Folder of finished anchors, looked in first by the content of all that is read, and added to.
        probe: The aligned model at work, for anchors that look at what prompts activate.
        progress: Whether to show a progress bar.

    Raises:
        AnchorError: If no anchor is asked for, or one cannot be built; names the module.
        UnpenalisedError: If nothing is trained, or the model has LoRA layers that cannot be penalised.
        ConfigurationError: If a checkpoint cannot be read.
    """
    if not anchors:
        raise AnchorError("a protected run needs at least one anchor, got none. Pass anchors=[Gram()].")
    targets = trained_targets(model)
    needs = needs_of(anchors)
    weights = WeightPair(
        _open(aligned, revision, model) if "aligned" in needs else None,
        _open(base, base_revision, model) if "base" in needs else None,
        device,
        probe,
        model,
    )
    shapes, sources = {target.name: target.shape for target in targets}, _sources(anchors, targets, weights)
    key = cache_key([anchor.settings() for anchor in anchors], shapes, sources)
    if cache is not None and (cached := AnchorCache(cache).get(key)):
        return cached
    label, count = sum_label(anchors), len(targets) * len(anchors)
    with tqdm(total=count, desc=f"Anchors ({label})", unit="matrix", disable=not progress, leave=False) as bar:
        terms = tuple(_term(anchor, targets, weights, bar.update) for anchor in anchors)
    anchor_set = AnchorSet(shapes, terms, sources)
    if cache is not None:
        AnchorCache(cache).put(key, anchor_set)
    return anchor_set


def build_anchors_of(
    pretrained: Pretrained,
    model: nn.Module,
    anchors: Sequence[Anchor],
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    template: Template,
    device: torch.device | str | None = None,
    run_on: torch.device | str | None = None,
    running: nn.Module | None = None,
) -> AnchorSet:
    """:func:`build_anchors` of the checkpoints that a run names, kept in the user's cache.

    Args:
        pretrained: The checkpoints.
        model: As there, on the meta device or not.
        anchors: The variants to sum.
        tokenizer: Loads the model's tokenizer, where an anchor runs the model.
        template: How prompts are written for it.
        device: Where to compute; None for the CPU.
        run_on: Where the aligned model is run by anchors that do; None for ``device``.
        running: The aligned model where it is in memory, to be run in place of one that is loaded.

    Raises:
        AnchorError: As :func:`build_anchors`.
        UnpenalisedError: As there.
        ConfigurationError: As there.
    """
    probe = None
    if "model" in needs_of(anchors):
        loader = replace(pretrained, start="aligned").load_model
        aligned = loader if running is None else cast(PreTrainedModel, running)
        probe = Probe(aligned, tokenizer(), template, run_on or device, pretrained.loading)
    return build_anchors(
        model,
        pretrained.aligned,
        pretrained.base,
        anchors,
        revision=pretrained.revision,
        base_revision=pretrained.base_revision,
        device=device,
        cache=user_cache(),
        probe=probe,
    )


def user_cache() -> Path:
    """The folder of finished anchors that all of the user's runs share."""
    return cache_folder() / "anchors"


def require_built_from(anchors: AnchorSet, model: nn.Module, aligned: WeightSource, revision: str | None = None) -> None:
    """Anchors from elsewhere must be those of the aligned model that is trained; the base model is not needed for it.

    Raises:
        AnchorError: If they were built from other weights, or for other modules.
    """
    built_from = anchors.sources.get("aligned")
    targets = [target for target in trained_targets(model) if target.name in anchors.shapes]
    if built_from is None or len(targets) < len(anchors.shapes):
        return  # made from no aligned weights, or for other modules: which the penalty refuses by name
    weights = open_weights(aligned, revision, model)
    if weights.fingerprint(targets) != built_from:
        raise AnchorError(
            f"anchors must be built from the aligned model that is trained, and these were built from other weights than "
            f"{weights.label} holds. Build them for it: asft-lightning anchors build."
        )


def _sources(anchors: Sequence[Anchor], targets: Sequence[Target], weights: WeightPair) -> dict[str, str]:
    """{what was read: its hash}; a side that no target reads is not in it."""
    sides = {"aligned": weights.aligned, "base": weights.base}
    checkpoints = {side: opened.fingerprint(targets) for side, opened in sides.items() if opened is not None}
    others = {f"{type(a).__name__} {i}": a.fingerprint(targets, weights) for i, a in enumerate(anchors)}
    return checkpoints | {name: value for name, value in others.items() if value is not None}


def _open(source: WeightSource | None, revision: str | None, model: nn.Module) -> Weights | None:
    return None if source is None else open_weights(source, revision, model)


def _term(anchor: Anchor, targets: Sequence[Target], weights: WeightPair, advance: Callable[[], object]) -> AnchorTerm:
    modules = {}
    for target, built in zip(targets, anchor.build_all(targets, weights), strict=True):
        modules[target.name] = built
        advance()
    return AnchorTerm(anchor.settings(), anchor.weight, modules, anchor.prompt_hashes())
