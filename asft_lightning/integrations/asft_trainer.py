"""AsFTTrainer: ``transformers.Trainer``, and any trainer made of it, with a model that is held while it is trained."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from transformers import Trainer

from asft_lightning.anchors import Anchor, AnchorSet, Answers
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.integrations.building import Building
from asft_lightning.integrations.holding import Holding
from asft_lightning.integrations.protection import Binding, Protection
from asft_lightning.integrations.supported import require_supported, tokenizer_of
from asft_lightning.penalty.drift_budget import require_budget, require_one_to_limit
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.reading import readable
from asft_lightning.weights.matrices import WeightSource
from asft_lightning.weights.targets import find_lora_factors

_STATE = "protection.json"
"""In a checkpoint: what held the model, and the weight of its answers where that moves."""


class AsFTTrainer(Trainer):  # type: ignore[misc]
    """A trainer that holds its LoRA model to the aligned model it was put on.

    L = L_task + λ Σ_l ‖(I − C_l) B_l A_l‖²_F + w · KL(aligned ‖ current), for any sum of anchors and for held answers, which
    mean what they do in :class:`AsFT`. Beside another trainer it is a mixin::

        class SafeTrainer(AsFTTrainer, SFTTrainer):
            pass

    λ counts once an optimizer step, in full, at any accumulation. The trainer's ``loss`` stays the task's alone; what holds
    is logged beside it, as ``penalty``, ``drift``, ``answer_divergence`` and so on. The aligned model is the trainer's own,
    with its adapter switched off.

    All other arguments are the trainer's.

    Args:
        anchors: The variants to sum, e.g. ``[Gram()]``; or an :class:`AnchorSet` that was built before, which a model whose
            weights are quantised needs. Empty for held answers alone.
        base: The unaligned model, for variants on V = W_aligned − W_base: hub id, directory, live module or tensors.
        lambda_reg: λ ≥ 0 of the anchors' penalty.
        drift_budget: Limit the drift to this instead, as :class:`AsFT` does; for one ``Activation`` among the anchors.
        answers: Hold the model's answers to some prompts. ``flagged`` is left aside, for there is no audit.
        template: How prompts are written for the model: as in the training rows.
        scale_update: Penalise (α/r)·BA, the true update, instead of the authors' bare BA.
        resumed: The model's adapter was trained on this aligned model before, and goes on from there.
        allow_unpenalised: Let other parameters be trained as well, unseen by the penalty.
        anchors_on_host: Keep the anchors in host memory: device memory for time.

    Raises:
        ConfigurationError: If there is nothing to hold by, a number cannot be, or the trainer would shard the model, make it
            anew or step without a gradient.
        UnpenalisedError: If the model has no LoRA, or something would be trained that no anchor sees.
        AnchorError: If an anchor cannot be built.
    """

    def __init__(
        self,
        *args: Any,
        anchors: Sequence[Anchor] | AnchorSet = (),
        base: WeightSource | None = None,
        lambda_reg: float = 1.0,
        drift_budget: float | None = None,
        answers: Answers | None = None,
        template: Template = Template(),  # noqa: B008 (frozen)
        scale_update: bool = False,
        resumed: bool = False,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
        **kwargs: Any,
    ) -> None:
        _require_something_to_hold_by(anchors, lambda_reg, drift_budget, answers)
        super().__init__(*args, **kwargs)
        require_supported(self)
        find_lora_factors(self.model)  # before what takes long
        self.template = template
        building = Building(self.model, lambda: tokenizer_of(self, "what holds the model"), template)
        with self.args.main_process_first(desc="building what holds the model"):  # the others find it in the cache
            anchor_set, kept = building.anchors(anchors, base), building.answers(answers)
        binding = Binding(lambda_reg, drift_budget, scale_update, allow_unpenalised, anchors_on_host)
        self.protection = Protection(self.model, anchor_set, kept, binding, answers, resumed)
        self.add_callback(Holding(self, self.protection))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's figures; beside the loss, those of what holds the model."""
        if "loss" in logs:
            logs.update(self.protection.figures(self.state.global_step))
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write what held the model as well."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            write_json(Path(output_dir) / _STATE, self.protection.state())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on held as before.

        Raises:
            ConfigurationError: If the checkpoint's run was held by something else, or by nothing.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        file = Path(checkpoint) / _STATE
        if not file.is_file():
            raise ConfigurationError(
                f"a run goes on held as it began, and there is no {file}: its run was not held, or saved its model alone. "
                "Begin a new run from its adapter, with resumed=True."
            )
        readable(file, lambda: self.protection.load(json.loads(file.read_text("utf-8")), checkpoint), "what held a run")


def _require_something_to_hold_by(
    anchors: Sequence[Anchor] | AnchorSet, lambda_reg: float, drift_budget: float | None, answers: Answers | None
) -> None:
    has_anchors = isinstance(anchors, AnchorSet) or bool(anchors)
    if not has_anchors and answers is None:
        raise ConfigurationError(
            "a trainer that holds its model needs something to hold it by, and got neither anchors nor answers. Give "
            "answers=Answers(prompts), or anchors=[Gram()] and base."
        )
    if not 0 <= lambda_reg < math.inf:
        raise ConfigurationError(
            f"lambda_reg must be a number ≥ 0, got {lambda_reg}. The paper's λ is 1; a negative one would drive the model "
            "away from its anchor."
        )
    if drift_budget is not None:
        require_budget(drift_budget)
        require_one_to_limit(None if has_anchors else [])
    if lambda_reg == 0 and drift_budget is None and answers is None:
        rank_zero_warn("lambda_reg is 0: this run trains without protection.")
