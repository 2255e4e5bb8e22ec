"""AlignmentMonitor: how large the update is, how much of it is aligned, and what it costs, layer by layer."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from lightning.pytorch import LightningModule, Trainer

from asft_lightning.anchors import (
    Anchor,
    AnchorSet,
    Gram,
    Probe,
    build_anchors,
    find_lora_factors,
    needs_of,
    term_labels,
    update_parts,
)
from asft_lightning.callbacks.protocols import ChatModule, pretrained_of
from asft_lightning.callbacks.scheduled import ScheduledCallback
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.alignment_log import AlignmentLog, LayerFigures
from asft_lightning.runs.alignment_picture import heat_map
from asft_lightning.runtime.extras import require_matplotlib
from asft_lightning.runtime.files import cache_folder
from asft_lightning.runtime.sharding import put_together, sharded_over
from asft_lightning.weights.pretrained import Pretrained

FILE_NAME = "alignment.csv"
PICTURE = "alignment.png"


class AlignmentMonitor(ScheduledCallback):
    """Measure every layer's update against anchors, before training, every so often, and after; training is as without.

    Each measurement goes to ``alignment.csv`` in the run's folder, a line for each layer and anchor (:class:`LayerFigures`),
    and in sums to the loggers: ``update/norm``, ‖BA‖ over all layers, and ``update/ANCHOR/aligned``, ``…/orthogonal`` and
    ``…/penalty``. After training ``alignment.png`` shows all layers. All is of the bare product B·A, without LoRA's α/r, as
    in ``asft-lightning anchors diff``; of a projected adapter (:class:`AdapterProjection`) ``after`` is what it became.

    The anchors are those that the run is protected with; where it has none, or others are asked for, they are built before
    the first step, by rank 0 alone. Of a large model take a file of ``asft-lightning anchors build`` then.

    Args:
        anchors: The variants to measure against; null for the run's own, or ``[Gram()]`` where it has none.
        anchor_file: Take built anchors instead: a file, or a hub repository with one.
        at_start: Measure before the first step.
        every_n_steps: Measure every so many optimizer steps.
        every_n_epochs: Measure every so many epochs.
        at_end: Measure after the last step, and draw.
        picture: Whether to draw; needs matplotlib.

    Raises:
        ConfigurationError: If a number is not positive, both ``anchors`` and ``anchor_file`` are given, or there is no
            matplotlib to draw with; before the first step, if a trained layer has no anchor.
        AnchorError: Before the first step, if anchors cannot be built.
    """

    def __init__(
        self,
        anchors: list[Anchor] | None = None,
        anchor_file: str | None = None,
        at_start: bool = True,
        every_n_steps: int | None = 10,
        every_n_epochs: int | None = None,
        at_end: bool = True,
        picture: bool = True,
    ) -> None:
        super().__init__(at_start, every_n_steps, every_n_epochs, at_end)
        if anchors is not None and anchor_file is not None:
            raise ConfigurationError(
                f"anchors are built or read, not both: got anchors and anchor_file {anchor_file!r}. Leave one out."
            )
        if picture:
            require_matplotlib()
        self.anchors = anchors
        self.anchor_file = anchor_file
        self.picture = picture
        self._anchor_set: AnchorSet | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the anchors, begin the table, and measure the model as it came."""
        if trainer.is_global_zero:
            self._anchor_set = self._found(pl_module)
            _require_anchors_for_all(self._anchor_set, pl_module)
            AlignmentLog(Path(trainer.default_root_dir) / FILE_NAME).begin(trainer.global_step)
        super().on_train_start(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: what is tested was measured when it was trained."""

    def run(self, trainer: Trainer, pl_module: LightningModule, when: str) -> None:
        """Measure once; every rank takes part, for of sharded factors each has a piece."""
        factors = find_lora_factors(cast(ChatModule, pl_module).model)
        whole = [(f.target.name, *put_together((f.a, f.b)), f.scaling) for f in factors]
        if self._anchor_set is None:  # not rank 0
            return
        rows = []
        for label, term in zip(term_labels(self._anchor_set), self._anchor_set.terms, strict=True):
            for name, a, b, scaling in whole:
                parts = update_parts(term.modules[name], term.weight, a.double(), b.double(), scaling)
                shares = (part / parts.size if parts.size else 0.0 for part in (parts.aligned, parts.orthogonal))
                figures = (math.sqrt(parts.size), *shares, parts.penalty)
                rows.append(LayerFigures(when, trainer.global_step, name, label, *figures))
        folder = Path(trainer.default_root_dir)
        AlignmentLog(folder / FILE_NAME).add(rows)
        for logger in trainer.loggers:
            logger.log_metrics(totals(rows), step=trainer.global_step)
        if when == "after" and self.picture:
            heat_map(rows, folder / PICTURE, f"Update by layer: {folder.name}, after {trainer.global_step} steps")

    def _found(self, pl_module: LightningModule) -> AnchorSet:
        if self.anchor_file is not None:
            return AnchorSet.load(self.anchor_file)
        own = getattr(pl_module, "anchor_set", None)
        if self.anchors is None and isinstance(own, AnchorSet):
            return own
        pretrained, anchors = pretrained_of(self, pl_module), [Gram()] if self.anchors is None else self.anchors
        return build_anchors(
            cast(ChatModule, pl_module).model,
            pretrained.aligned,
            pretrained.base,
            anchors,
            revision=pretrained.revision,
            base_revision=pretrained.base_revision,
            cache=cache_folder() / "anchors",
            probe=_probe(pl_module, pretrained) if "model" in needs_of(anchors) else None,
        )


def _probe(pl_module: LightningModule, pretrained: Pretrained) -> Probe:
    module = cast(ChatModule, pl_module)
    # Rank 0 is alone here, and all ranks gather sharded weights; nor is what is trained always aligned.
    own = pretrained.start == "aligned" and sharded_over(module.model) is None
    aligned = module.model if own else replace(pretrained, start="aligned").load_model
    return Probe(aligned, module.tokenizer, module.template, pl_module.device, pretrained.loading)


def totals(rows: Sequence[LayerFigures]) -> dict[str, float]:
    """The figures over all layers: the norm of the whole update, its parts as shares of that squared, and the penalty."""
    found: dict[str, float] = {}
    for anchor in dict.fromkeys(row.anchor for row in rows):
        own = [row for row in rows if row.anchor == anchor]
        size = sum(row.norm**2 for row in own)
        found["update/norm"] = math.sqrt(size)
        for part in ("aligned", "orthogonal"):
            inside = sum(getattr(row, part) * row.norm**2 for row in own)
            found[f"update/{anchor}/{part}"] = inside / size if size else 0.0
        found[f"update/{anchor}/penalty"] = sum(row.penalty for row in own)
    return found


def _require_anchors_for_all(anchors: AnchorSet, pl_module: LightningModule) -> None:
    trained = [factor.target.name for factor in find_lora_factors(cast(ChatModule, pl_module).model)]
    if missing := [name for name in trained if name not in anchors.shapes]:
        raise ConfigurationError(
            f"AlignmentMonitor needs an anchor for every trained layer, and {len(missing)} like {missing[0]} have none. "
            "Build the anchors for these target_modules."
        )
