"""Lisa: lazy safety alignment (arXiv 2405.18641), the bi-state baseline."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from peft import LoraConfig
from torch import Tensor, nn

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.modules.switch_point import SwitchPoint
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.weights.pretrained import Pretrained


class _Batches(Protocol):
    def __getitem__(self, number: int) -> Mapping[str, Tensor]: ...


class Lisa(LoRAFineTuner):
    """Optimizer steps on alignment rows and on the task's rows by turns, each held to where the other left off.

    The loss of either state is that of its batch plus ρ/2 Σ‖w − w_switch‖², where w are the trained factors, each by
    itself, and w_switch what they were when the state began. As the authors' code: the alignment state comes first, its
    steps take the place of steps on the task's rows, whose batches are passed over, and the proximal term waits for the
    first tenth of the run, where it would hold back the task. What differs: states last for optimizer steps, whatever the
    accumulation, where theirs count micro-batches and may switch within a step.

    Alignment rows are the data module's safety rows, kept apart (``safety_apart``). Lisa-base and Lisa-aligned are this
    module with ``pretrained.start`` at ``base`` and at ``aligned``.

    The arguments up to ``lr_scheduler`` are those of :class:`LoRAFineTuner`.

    Args:
        rho: ρ ≥ 0; 0 is bi-state optimisation without a proximal term. The authors' script has 1.
        alignment_steps: Optimizer steps of an alignment state; 100 in the authors' script.
        task_steps: Optimizer steps of a task state; 900 there.
        proximal_start: Share of the run's optimizer steps before which there is no proximal term; 0.1 in their code.

    Raises:
        ConfigurationError: If a setting is out of its range; before training, if the data keeps no safety rows apart.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        lora: PlainData | LoraConfig | None = None,
        template: Template = Template(),  # noqa: B008 (frozen)
        adapter: str | None = None,
        loss_reduction: LossReduction = "token",
        gradient_checkpointing: bool = False,
        compile_backend: str | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=5e-5, weight_decay=0.0),
        lr_scheduler: Decay | LRSchedulerCallable | None = None,
        rho: float = 1.0,
        alignment_steps: int = 100,
        task_steps: int = 900,
        proximal_start: float = 0.1,
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, lora, template, adapter, *tuning)
        if not (rho >= 0 and 0 <= proximal_start <= 1):
            raise ConfigurationError(
                f"Lisa needs rho ≥ 0 and proximal_start in 0..1, got {rho} and {proximal_start}. The authors' are 1 and 0.1."
            )
        if alignment_steps < 1 or task_steps < 1:
            raise ConfigurationError(
                f"Lisa needs alignment_steps and task_steps of 1 or more, got {alignment_steps} and {task_steps}. For one "
                "state alone use LoRAFineTuner."
            )
        self.rho = rho
        self.alignment_steps = alignment_steps
        self.task_steps = task_steps
        self.proximal_start = proximal_start
        self._batches: _Batches | None = None
        self._given = 0
        self._given_before = (0, 0)  # so many, when so many optimizer steps were whole
        self._switch: SwitchPoint | None = None
        self._switched_at = -1

    @property
    def aligning(self) -> bool:
        """Whether this optimizer step is one on alignment rows."""
        return self.global_step % (self.alignment_steps + self.task_steps) < self.alignment_steps

    def setup(self, stage: str) -> None:
        """Find the alignment rows before a model is loaded."""
        super().setup(stage)
        if stage == "fit":
            self._batches = getattr(getattr(self.trainer, "datamodule", None), "safety_batches", None)
            if self._batches is None:
                raise ConfigurationError(
                    "Lisa needs alignment rows that are kept apart from the task's, and the data has none. Set safety, "
                    "safety_rows and safety_apart: true, as --config methods/lisa-aligned does."
                )

    def on_train_start(self) -> None:
        """A share of a run without an end would never come."""
        if self.rho and self.proximal_start and math.isinf(self.trainer.estimated_stepping_batches):
            raise ConfigurationError(
                f"Lisa needs to know how long the run is, for proximal_start is a share of it, {self.proximal_start}, and "
                "it has neither max_steps nor max_epochs. Set one, or proximal_start to 0."
            )

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """A step of the state that this one belongs to; ``train/task_loss`` is then the loss on that state's rows."""
        self._remember_switch()
        self.log("train/aligning", float(self.aligning))
        return super().training_step(self._alignment_batch() if self.aligning else batch, batch_idx)

    def regularisation(self) -> Tensor | None:
        """ρ/2 Σ‖w − w_switch‖², logged; None where it is not yet, or never, asked for."""
        if not self.rho or self.global_step < self.proximal_start * self.trainer.estimated_stepping_batches:
            return None
        assert self._switch is not None
        proximal = self.rho / 2 * self._switch.distance(self._trained())
        self.log("train/proximal", proximal.detach())
        return proximal

    def fingerprint(self) -> dict[str, object]:
        """What was trained, and how it was held to its alignment."""
        settings = {name: getattr(self, name) for name in ("rho", "alignment_steps", "task_steps", "proximal_start")}
        return {**super().fingerprint(), **settings}

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Note which alignment batch is the next where an optimizer step ends."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.global_step > self._given_before[0]:
            self._given_before = self.global_step, self._given

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where the present state began, and which alignment batch is the next after the last whole step."""
        super().on_save_checkpoint(checkpoint)
        steps, given = self._given_before
        batches = given if steps == self.global_step else self._given
        switch = None if self._switch is None else self._switch.state()
        checkpoint["lisa"] = {"switch": switch, "switched_at": self._switched_at, "batches": batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in the state of the run that is resumed."""
        super().on_load_checkpoint(checkpoint)
        if not (self._trainer and self.trainer.state.fn == TrainerFn.FITTING):
            return
        state = checkpoint["lisa"]
        self._switched_at, self._given = _count(state["switched_at"], -1), _count(state["batches"], 0)
        if (state["switch"] is None) != (self._switched_at < 0):
            raise ValueError("lisa has a switch point without its step")
        self._given_before = checkpoint["global_step"], self._given
        self._switch = None if state["switch"] is None else SwitchPoint.from_state(state["switch"], self._trained())

    def _remember_switch(self) -> None:
        """Once at the first micro-batch of each state's first step."""
        place = self.global_step % (self.alignment_steps + self.task_steps)
        if place in (0, self.alignment_steps) and self._switched_at != self.global_step:
            self._switch, self._switched_at = SwitchPoint.of(self._trained()), self.global_step

    def _alignment_batch(self) -> Mapping[str, Tensor]:
        assert self._batches is not None
        batch = self._batches[self._given]
        self._given += 1
        given = self.on_before_batch_transfer(batch, 0)
        return cast(Mapping[str, Tensor], self.transfer_batch_to_device(given, self.device, 0))

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def _count(value: Any, least: int) -> int:
    """A whole number of a checkpoint.

    Raises:
        ValueError: If it is none, or below the least.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"lisa counts {value!r}")
    return value
