"""TwoGradients: fine-tuning where the task's gradient and that of what protects are added, or combined otherwise."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Literal, get_args

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer

from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import whole, without_conflict
from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.runtime.gradients import gradient_vector, set_gradient
from asft_lightning.runtime.ranks import mean_over_ranks
from asft_lightning.runtime.sharding import SumOverRanks, sharded_over

Conflict = Literal["add", "project"]


class TwoGradients(LoRAFineTuner):
    """What a step follows where the task and what protects want opposite things: their sum, or the task's share less.

    A part of :class:`AsFT`, whose constructor calls :meth:`settle` and whose :meth:`regularisation` calls :meth:`apart`;
    where neither is called they are added. Where gradients are projected, that of what protects is taken before the task's
    and kept as one vector over a step's micro-batches; both are combined when the step's last backward pass is done, before
    a scaler or clipping looks at them.
    """

    conflict: Conflict = "add"
    _protecting: Tensor | None = None
    _cosine: Tensor | None = None

    def settle(self, conflict: Conflict) -> None:
        """Say how the gradients are combined; a subclass's constructor does.

        Args:
            conflict: ``add`` or ``project``, by :func:`without_conflict`.

        Raises:
            ConfigurationError: If it is neither.
        """
        if conflict not in get_args(Conflict):
            raise ConfigurationError(f"conflict must be one of {', '.join(get_args(Conflict))}, got {conflict!r}.")
        self.conflict = conflict

    @property
    def needs_one_closure(self) -> bool:
        """Whether a step has parts that are computed once, so that its optimizer must not evaluate it again."""
        return self.conflict == "project"

    @property
    def micro_batches(self) -> int:
        """Of an optimizer step, by whose number Lightning divides each loss."""
        return 1 if self._trainer is None else self.trainer.accumulate_grad_batches

    def on_train_start(self) -> None:
        """Nothing is left of a step that another fit broke off."""
        self._protecting = None

    def apart(self, protection: Tensor | None) -> Tensor | None:
        """What protects, for this micro-batch's loss; its value alone where its gradient goes another way."""
        if protection is None or self.conflict == "add":
            return protection
        parameters = self.trainable_parameters()
        of_task = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        # As Lightning does with the task's loss: scaled alike under fp16.
        self.trainer.strategy.backward(protection / self.micro_batches, None)
        gradient = gradient_vector(parameters)
        self._protecting = gradient if self._protecting is None else self._protecting + gradient
        for parameter, accumulated in zip(parameters, of_task, strict=True):
            parameter.grad = accumulated
        return protection.detach()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """A step along the combined gradient.

        Raises:
            ConfigurationError: If the optimizer evaluates a step more than once, and that cannot be.
        """
        calls = count()

        def closure() -> Any:
            if next(calls) and self.needs_one_closure:
                name = type(getattr(optimizer, "optimizer", optimizer)).__name__
                raise ConfigurationError(
                    f"conflict: project and answers need an optimizer that evaluates a step once, and {name} does it again. "
                    "Use one like AdamW, or anchors on the update alone and conflict: add."
                )
            assert optimizer_closure is not None
            result = optimizer_closure()
            self._combine()
            return result

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def _combine(self) -> None:
        if self._protecting is None:
            return
        assert self.model is not None
        protecting, self._protecting = self._protecting, None
        parameters = self.trainable_parameters()
        mesh = sharded_over(self.model)
        if mesh is None:
            protecting = mean_over_ranks(self.trainer, protecting)  # each draws a dropout of its own
        total = whole if mesh is None else SumOverRanks(mesh)
        gradient, self._cosine = without_conflict(gradient_vector(parameters), protecting, total)
        set_gradient(parameters, gradient)

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log the cosine between the last step's gradients."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self._cosine is not None:
            self.log("train/conflict", self._cosine)
