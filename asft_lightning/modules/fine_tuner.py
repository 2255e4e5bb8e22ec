"""FineTuner: supervised fine-tuning (SFT) of a causal LM, the spine that every method of this package adds to."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.audit import audit_run
from asft_lightning.chat.template import Template
from asft_lightning.modules.decay import Decay, decaying, require_known_decay
from asft_lightning.modules.finishing import finish_what_is_left
from asft_lightning.modules.logged_steps import LoggedSteps
from asft_lightning.modules.ready_batch import ready
from asft_lightning.modules.same_method import note_settings, require_same_settings, settings_of
from asft_lightning.modules.sound_optimizer import sound_optimizer
from asft_lightning.modules.spoilt_batch import spoilt_batch
from asft_lightning.modules.step_figures import StepFigures
from asft_lightning.modules.steps import require_steps
from asft_lightning.modules.task_loss import LossReduction, TaskLoss
from asft_lightning.modules.unfit_callbacks import require_fit_callbacks
from asft_lightning.runs.tracking import Tracking
from asft_lightning.runtime.checkpoint_io import keep_checkpoints_whole
from asft_lightning.runtime.ending import Ending, end_where_told, requeue_where_told
from asft_lightning.runtime.malformed import refuse_malformed
from asft_lightning.runtime.progress import Progress
from asft_lightning.runtime.queued import queueable
from asft_lightning.runtime.ranks import of_every_rank, on_any_rank
from asft_lightning.runtime.sharding import shard
from asft_lightning.runtime.strategies import require_known_strategy
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.trained_weights import trained_targets


class FineTuner(LoggedSteps):
    """Fine-tune a causal LM, without any protection; what of it is trained is what :meth:`made_trainable` says.

    To change a method, override one of the small hooks: :meth:`task_loss`, :meth:`regularisation`,
    :meth:`trainable_parameters`, :meth:`configure_optimizers`.

    Args:
        pretrained: The checkpoints.
        template: How prompts and answers are written for the model.
        loss_reduction: ``token`` or ``row``, see :class:`TaskLoss`.
        gradient_checkpointing: Trade time for activation memory.
        compile_backend: Run the model through ``torch.compile`` with this backend, e.g. ``inductor``; null for not.
        optimizer: From the trainable parameters to an optimizer. No weight decay unless asked for: it would be
            shrinkage by another name.
        lr_scheduler: ``linear`` or ``cosine``, a rate that falls to 0 over the run's steps; or from the optimizer to a
            scheduler stepped once a step; null for a constant rate, as the authors.

    Raises:
        ConfigurationError: If ``lr_scheduler`` is no such name.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        template: Template = Template(),  # noqa: B008 (frozen)
        loss_reduction: LossReduction = "token",
        gradient_checkpointing: bool = False,
        compile_backend: str | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=5e-5, weight_decay=0.0),
        lr_scheduler: Decay | LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        require_known_decay(lr_scheduler)
        self.pretrained = pretrained
        self.template = template
        self.gradient_checkpointing = gradient_checkpointing
        self.compile_backend = compile_backend
        self.model: PeftModel | PreTrainedModel | None = None
        self._task_loss = TaskLoss(loss_reduction)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._step: tuple[Mapping[str, Tensor], Mapping[str, Tensor], StepFigures] | None = None
        self._shown: dict[str, Tensor] = {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded on first use."""
        if self._tokenizer is None:
            self._tokenizer = self.pretrained.load_tokenizer()
        return self._tokenizer

    def prepare_data(self) -> None:
        """On rank 0, before a model is loaded: have the aligned model look through the rows, where the data asks for it."""
        audit_run(self.trainer)

    def setup(self, stage: str) -> None:
        """Refuse what cannot be gone on from; have checkpoints written whole, what is left done, and one date written."""
        self.template = self.template.on(of_every_rank(self.template.day)[0])  # ranks may begin on both sides of midnight
        require_known_strategy(self.trainer.strategy, self.pretrained.load_in_4bit)
        require_steps(self.trainer)
        if stage == TrainerFn.FITTING:
            require_fit_callbacks(self.trainer)
        keep_checkpoints_whole(self.trainer.strategy)
        finish_what_is_left(self.trainer)
        refuse_malformed(self.trainer)

    def configure_callbacks(self) -> list[Callback]:
        """What every run needs: ranks that end together and not within a step, checkpoints to go on from, told loggers."""
        return [Ending(), Progress(), Tracking()]

    def configure_model(self) -> None:
        """Load the model and make trainable what is to be trained; once, whatever calls it again."""
        if self.model is None:
            self.model = self.made_trainable(self.pretrained.load_model())
            if self.gradient_checkpointing:
                self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if self.compile_backend is not None:
                self.model.compile(backend=self.compile_backend, dynamic=True)  # in place: names and generation stay
            if self.device_mesh is not None:
                shard(self.model, self.device_mesh["data_parallel"])

    @abstractmethod
    def made_trainable(self, model: PreTrainedModel) -> PeftModel | PreTrainedModel:
        """Hook: ``model``, of which what is to be trained is trainable and nothing else; it may lie on the meta device."""

    def trained_layers(self) -> list[str]:
        """Names, in the plain model, of the layers that are trained, from the lowest; found on a model without weights."""
        return [target.name for target in trained_targets(self.made_trainable(self.pretrained.load_model_on_meta()))]

    @property
    def build_device(self) -> torch.device | None:
        """Where the aligned model is run before training; None for where it is loaded to."""
        return None if self._trainer is None else self._trainer.strategy.root_device

    def leave_to_each_rank(self, *parts: str) -> None:
        """Have DDP not broadcast what every rank reads from one file, at each step; nor could it from the host."""
        held = [name for name, _ in self.named_buffers() if name.startswith(parts)]
        self._ddp_params_and_buffers_to_ignore = [*getattr(self, "_ddp_params_and_buffers_to_ignore", []), *held]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Read on the host what a step must know of a batch, see :func:`ready`; and have it sent without a wait."""
        if not (isinstance(batch, Mapping) and "labels" in batch):
            return batch
        return queueable(ready(batch), self.device)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Task loss plus what a method adds to it; :meth:`on_after_backward` looks at it."""
        self._step, self._shown = None, {}
        extra = self.regularisation()  # before the forward pass, after which a sharded factor may be a plain tensor
        task_loss = self.task_loss(batch)
        self.show("train/task_loss", task_loss)
        if extra is not None:
            self.show("train/penalty_ratio", extra / task_loss)
        loss = task_loss if extra is None else task_loss + extra
        parts = {"task loss": task_loss.detach()} | ({} if extra is None else {"λ·penalty": extra.detach()})
        self._step = batch, parts, StepFigures(self._trainer, loss, self._shown)
        return loss

    def show(self, name: str, figure: Tensor) -> None:
        """Log a scalar of this training step, in the progress bar too: it goes to the host with the loss."""
        self._shown[name] = figure

    def on_after_backward(self) -> None:
        """End a run that must not go on; the device has the backward pass to do meanwhile, and no weight has changed.

        Raises:
            TrainingError: If a loss is no finite number, before any weight has changed by it, or the weights are not.
            KeyboardInterrupt: If a rank was told to end by Ctrl-C; a SIGTERM likewise.
        """
        if self._step is None:  # the backward pass of what protects alone
            return
        (batch, parts, figures), self._step = self._step, None
        for name, figure in figures.shown.items():
            self._log_shown(name, figure)
        if figures.must_end:  # on all ranks, or the others would wait for this one
            requeue_where_told(self._trainer)
            end_where_told(self._trainer)
            if not on_any_rank(self._trainer, figures.is_spoilt):
                return  # its job will be requeued, and has a checkpoint now
            self.require_finite_weights()
            raise spoilt_batch(self.trainer, self.tokenizer, batch, parts if figures.is_spoilt else None)
        self.pace.mark()

    def _log_shown(self, name: str, figure: Tensor) -> None:
        """Log a figure of every step, from :meth:`on_after_backward`.

        Lightning looks anew at each setting of a figure that it knows, and moves it to the device where it is: a sixth of a
        step of a small model. So what it knows is only told the value.
        """
        known, key = self.trainer._results, f"on_after_backward.{name}"
        if known is not None and key in known:
            known.update_metrics(key, figure, batch_size=1)
        else:
            self.log(name, figure, prog_bar=True)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Task loss on the held-out rows."""
        end_where_told(self._trainer)
        self.log("val/task_loss", self.task_loss(batch), prog_bar=True, sync_dist=True)

    def test_step(self, batch: Mapping[str, Tensor] | None, batch_idx: int) -> None:
        """Task loss on the held-out rows, if there are any; the callbacks score the rest."""
        if batch is not None:
            self.log("test/task_loss", self.task_loss(batch), sync_dist=True)

    def task_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Hook: the fine-tuning task's loss on a batch, a scalar."""
        assert self.model is not None
        return self._task_loss(self.model, batch)

    def regularisation(self) -> Tensor | None:
        """Hook: what is added to the task loss of a step, a scalar; None for nothing."""
        return None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and scheduler of the arguments, over the trainable parameters only.

        Raises:
            ConfigurationError: As :func:`~asft_lightning.modules.sound_optimizer.sound_optimizer`.
        """
        optimizer = sound_optimizer(self._optimizer, self.trainable_parameters())
        if self._lr_scheduler is None:
            return optimizer
        decay = self._lr_scheduler
        scheduler = decaying(optimizer, decay, self.trainer) if isinstance(decay, str) else decay(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def fingerprint(self) -> dict[str, object]:
        """What was trained and how, to record beside a result."""
        checkpoints = {side: getattr(self.pretrained, side) for side in ("aligned", "base", "start")}
        return {"method": type(self).__name__, **checkpoints}

    @cached_property
    def _settings(self) -> dict[str, str]:
        return settings_of({**self.fingerprint(), **self.kept_settings()})

    def kept_settings(self) -> dict[str, object]:
        """Hook: what else a run has to be gone on with, beside its fingerprint."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what it was trained by."""
        super().on_save_checkpoint(checkpoint)
        note_settings(self._settings, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on as the run began.

        Raises:
            ConfigurationError: If it was trained by something else.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer and self.trainer.state.fn == TrainerFn.FITTING:
            require_same_settings(self._settings, checkpoint, since=settings_of(self.kept_settings()).keys())

    def on_train_end(self) -> None:
        """A signal that came while the end was at work is not swallowed."""
        end_where_told(self.trainer)
