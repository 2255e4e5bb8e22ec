"""ConstrainedSFT: an answer's first tokens are held back (arXiv 2406.05946), a baseline that weighs the loss of tokens."""

import math
from collections.abc import Mapping

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from peft import LoraConfig, PeftModel
from torch import Tensor

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import IGNORE_INDEX, answer_places, constraint_weights
from asft_lightning.modules.aligned_start import require_aligned_start
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.modules.task_loss import LossReduction
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.adapters_off import without_adapters
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.targets import find_lora_factors, require_only_bound_trainable


class ConstrainedSFT(LoRAFineTuner):
    """L = Σ_t (2/β_t) softplus(−β_t Δ_t), where Δ_t = log π(y_t) − log π_aligned(y_t): what a token may gain saturates.

    As the authors' code (Unispac/shallow-vs-deep-alignment): the cross-entropy of each token times 2σ(−β_t Δ_t), which has
    the same gradient, with weights of 1e-3 at least; the mean over the batch's tokens. β is large at an answer's first
    tokens, so that how answers begin hardly moves. What differs: each answer of a conversation is counted for itself, and
    the aligned model is the one that is trained with its adapter switched off, asked in each step, where theirs is a second
    one that is asked before. The base weights are frozen, so that this is the aligned model itself at any time, also where
    a run is resumed or an adapter goes on; it costs a forward pass without gradients and no memory. Their script has no
    dropout; here it is as ``lora`` says.

    The arguments up to ``lr_scheduler`` are those of :class:`LoRAFineTuner`.

    Args:
        beta: β > 0 of the tokens after an answer's first; the authors' 0.1.
        first_betas: β of an answer's first tokens, as many as there are; theirs are 0.5 and four times 2.
        least_weight: Of a token, from 0 to 1; 1e-3 in their code, 0 in their formula.

    Raises:
        ConfigurationError: If a number cannot be, or ``pretrained.start`` is not ``aligned``; when the model is configured,
            if more than an adapter is trained.
        UnpenalisedError: Then, if the adapter's start changes the weights that it is put on.
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
        beta: float = 0.1,
        first_betas: tuple[float, ...] = (0.5, 2.0, 2.0, 2.0, 2.0),
        least_weight: float = 1e-3,
    ) -> None:
        tuning = (loss_reduction, gradient_checkpointing, compile_backend, optimizer, lr_scheduler)
        super().__init__(pretrained, lora, template, adapter, *tuning)
        require_aligned_start(pretrained, "ConstrainedSFT")
        if not (all(0 < value < math.inf for value in (beta, *first_betas)) and 0 <= least_weight <= 1):
            raise ConfigurationError(
                f"ConstrainedSFT needs beta and first_betas above 0 and least_weight in 0..1, got {beta}, "
                f"{list(first_betas)} and {least_weight}. The authors' are 0.1, [0.5, 2, 2, 2, 2] and 0.001."
            )
        self.beta = beta
        self.first_betas = tuple(first_betas)
        self.least_weight = least_weight

    def configure_model(self) -> None:
        """Load the model, which without its adapter must stay the aligned one."""
        super().configure_model()
        assert self.model is not None
        require_aligned_underneath(self.model)

    def task_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The weighted loss of a training batch; of others the plain one, as for any method."""
        if not self.training:
            return super().task_loss(batch)
        assert self.model is not None
        with without_adapters(self.model), undisturbed(self.model):
            aligned = self._task_loss.of_tokens(self.model, batch)
        current = self._task_loss.of_tokens(self.model, batch)
        places = answer_places(batch["labels"][:, 1:] != IGNORE_INDEX)[:, current.positions]
        weights = constraint_weights(current.losses, aligned.losses, places, self.first_betas, self.beta, self.least_weight)
        self.log("train/token_weight", (weights * current.is_learnt).sum() / current.is_learnt.sum())
        return self._task_loss.reduced(current._replace(losses=current.losses * weights))

    def fingerprint(self) -> dict[str, object]:
        """What was trained, and how it was held back."""
        settings = {"beta": self.beta, "first_betas": list(self.first_betas), "least_weight": self.least_weight}
        return {**super().fingerprint(), **settings}


def require_aligned_underneath(model: PeftModel) -> None:
    """What is trained must be an adapter's factors alone, on weights as they were loaded.

    Raises:
        ConfigurationError: If something else is trained.
        UnpenalisedError: If an adapter is of a kind that changes the weights it is put on.
    """
    factors = find_lora_factors(model)
    if others := require_only_bound_trainable(model, factors, allow_unpenalised=True):
        raise ConfigurationError(
            "ConstrainedSFT trains the factors of an adapter alone, for without it the model must be the aligned one, and "
            f"{', '.join(others[:3])} would be trained as well. Freeze that: bias='none', no lora_bias, no modules_to_save."
        )
