"""AlignmentMonitor: how large the update is, how much of it is aligned, and what it costs, layer by layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning.pytorch import LightningModule, Trainer

from asft_lightning.anchors import Anchor, AnchorSet, Gram, build_anchors_of, needs_of, term_labels, update_parts
from asft_lightning.callbacks.protocols import ChatModule, adapted_module, chat_module, pretrained_of
from asft_lightning.callbacks.scheduled import ScheduledCallback
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.alignment_log import AlignmentLog, LayerFigures
from asft_lightning.runs.alignment_picture import draw_alignment
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runtime.extras import require_extra
from asft_lightning.runtime.sharding import put_together, sharded_over
from asft_lightning.weights.targets import find_lora_factors


@dataclass(eq=False, kw_only=True)
class AlignmentMonitor(ScheduledCallback):
    """Measure every layer's update against anchors, before training, every so often, and after; training is as without.

    Each measurement goes to ``alignment.csv`` in the run's folder, a line for each layer and anchor (:class:`LayerFigures`),
    and in sums to the loggers: ``update/norm``, ‖BA‖ over all layers, and ``update/ANCHOR/aligned``, ``…/orthogonal`` and
    ``…/penalty``. After training ``alignment.png`` shows all layers. All is of the bare product B·A, without LoRA's α/r, as
    in ``asft-lightning anchors diff``; of a projected adapter (:class:`AdapterProjection`) ``after`` is what it became.

    The anchors are those that the run is protected with; where it has none, or others are asked for, they are built before
    the first step, by rank 0 alone. Of a large model take a file of ``asft-lightning anchors build`` then.

    The rest of the schedule is told as for :class:`ScheduledCallback`.

    Args:
        anchors: The variants to measure against; null for the run's own, or ``[Gram()]`` where it has none.
        anchor_file: Take built anchors instead: a file, or a hub repository with one.
        every_n_steps: Measure every so many optimizer steps.
        picture: Whether to draw after the last step; needs matplotlib.

    Raises:
        ConfigurationError: If a number is not positive, both ``anchors`` and ``anchor_file`` are given, or there is no
            matplotlib to draw with; before the first step, if a trained layer has no anchor.
        AnchorError: Before the first step, if anchors cannot be built.
    """

    anchors: list[Anchor] | None = field(default=None, kw_only=False)
    anchor_file: str | None = field(default=None, kw_only=False)
    every_n_steps: int | None = 10
    picture: bool = True

    def __post_init__(self) -> None:
        """Refuse what could not be measured or drawn."""
        super().__post_init__()
        if self.anchors is not None and self.anchor_file is not None:
            raise ConfigurationError(
                f"anchors are built or read, not both: got anchors and anchor_file {self.anchor_file!r}. Leave one out."
            )
        if self.picture:
            require_extra("matplotlib", "a picture")
        self._anchor_set: AnchorSet | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the anchors, begin the table, and measure the model as it came."""
        module = adapted_module(self, pl_module)
        if trainer.is_global_zero:
            self._anchor_set = self._anchors_of(pl_module)
            _require_anchors_for_all(self._anchor_set, module)
            AlignmentLog(RunFolder.of(trainer).alignment).begin(trainer.global_step)
        super().on_train_start(trainer, pl_module)

    def is_missing(self, trainer: Trainer, moment: Moment) -> bool:
        """Whether the table has no line of it."""
        return all(row.moment != moment for row in AlignmentLog(RunFolder.of(trainer).alignment).read())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: what is tested was measured when it was trained."""

    def run(self, trainer: Trainer, pl_module: LightningModule, moment: Moment) -> None:
        """Measure once; every rank takes part, for of sharded factors each has a piece."""
        factors = find_lora_factors(chat_module(self, pl_module, "model").model)
        updates = [(f.target.name, *put_together((f.a, f.b)), f.scaling) for f in factors]
        if self._anchor_set is None:  # not rank 0
            return
        rows = []
        for label, term in zip(term_labels(self._anchor_set.terms), self._anchor_set.terms, strict=True):
            for name, a, b, scaling in updates:
                parts = update_parts(term.modules[name], term.weight, a.double(), b.double(), scaling)
                figures = (math.sqrt(parts.size), *parts.shares, parts.penalty)
                rows.append(LayerFigures(moment, trainer.global_step, name, label, *figures))
        folder = RunFolder.of(trainer)
        AlignmentLog(folder.alignment).add(rows)
        for logger in trainer.loggers:
            logger.log_metrics(totals(rows), step=trainer.global_step)
        if moment == Moment.AFTER and self.picture:
            title = f"Update by layer: {folder.path.name}, after {trainer.global_step} steps"
            draw_alignment(rows, folder.alignment_picture, title)

    def _anchors_of(self, pl_module: LightningModule) -> AnchorSet:
        if self.anchor_file is not None:
            return AnchorSet.load(self.anchor_file)
        of_run = getattr(pl_module, "anchor_set", None)
        if self.anchors is None and isinstance(of_run, AnchorSet):
            return of_run
        pretrained = pretrained_of(self, pl_module)
        variants = [Gram()] if self.anchors is None else self.anchors
        module = chat_module(self, pl_module, "model") if "model" not in needs_of(variants) else chat_module(self, pl_module)
        # Rank 0 is alone here, and all ranks gather sharded weights; nor is what is trained always aligned.
        can_run = pretrained.start == "aligned" and sharded_over(module.model) is None
        return build_anchors_of(
            pretrained,
            module.model,
            variants,
            lambda: module.tokenizer,
            getattr(module, "template", Template()),
            run_on=pl_module.device,
            running=module.model if can_run else None,
        )


def totals(rows: Sequence[LayerFigures]) -> dict[str, float]:
    """The figures over all layers: the norm of the whole update, its parts as shares of that squared, and the penalty."""
    sums: dict[str, float] = {}
    for anchor in dict.fromkeys(row.anchor for row in rows):
        of_anchor = [row for row in rows if row.anchor == anchor]
        size = sum(row.norm**2 for row in of_anchor)
        sums["update/norm"] = math.sqrt(size)
        for part in ("aligned", "orthogonal"):
            inside = sum(getattr(row, part) * row.norm**2 for row in of_anchor)
            sums[f"update/{anchor}/{part}"] = inside / size if size else 0.0
        sums[f"update/{anchor}/penalty"] = sum(row.penalty for row in of_anchor)
    return sums


def _require_anchors_for_all(anchors: AnchorSet, module: ChatModule) -> None:
    trained = [factor.target.name for factor in find_lora_factors(module.model)]
    if missing := [name for name in trained if name not in anchors.shapes]:
        raise ConfigurationError(
            f"AlignmentMonitor needs an anchor for every trained layer, and {len(missing)} like {missing[0]} have none. "
            "Build the anchors for these target_modules."
        )
