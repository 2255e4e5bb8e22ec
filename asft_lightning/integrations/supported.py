"""What of a ``transformers.Trainer`` a model cannot be held under: it ends in an error that says what to do instead."""

from transformers import PreTrainedTokenizerBase, Trainer

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.sharding import sharded_over

_STEPPING_BACKWARD = ("lomo", "layerwise")
"""In the names of optimizers that step while the backward pass is under way."""


def require_supported(trainer: Trainer) -> None:
    """Refuse what would leave a model unprotected.

    Raises:
        ConfigurationError: If the model is made anew when training begins, or is sharded, or the optimizer has no step.
    """
    if trainer.model_init is not None:
        raise ConfigurationError(
            "what holds a model is bound to it when the trainer is made, and model_init makes another one later. Give "
            "`model` instead."
        )
    require_whole(trainer, "held")
    optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if any(kind in optimizer for kind in _STEPPING_BACKWARD):
        raise ConfigurationError(
            f"a model is held by a gradient that is there before the optimizer's step, and {optimizer} has no step of its "
            "own. Set optim to adamw_torch."
        )


def require_whole(trainer: Trainer, what: str) -> None:
    """Refuse a model of which each rank has a part.

    Args:
        trainer: The trainer.
        what: What is done to its model, for the error.

    Raises:
        ConfigurationError: If it is, or would be when training begins.
    """
    sharding = {"fsdp": trainer.is_fsdp_enabled, "deepspeed": trainer.is_deepspeed_enabled}
    if any(sharding.values()) or sharded_over(trainer.model) is not None:
        name = next((name for name, is_on in sharding.items() if is_on), "its own tensors")
        raise ConfigurationError(
            f"a model is {what} on one device or under DDP here, and this one would be sharded (by {name}). Leave that out, "
            "or train with asft-lightning fit, which has FSDP2."
        )


def tokenizer_of(trainer: Trainer, whose: str) -> PreTrainedTokenizerBase:
    """The trainer's tokenizer, to ask its model with.

    Args:
        trainer: The trainer.
        whose: Who asks, for an error.

    Raises:
        ConfigurationError: If there is none, or it has no token to pad with.
    """
    processing = trainer.processing_class
    tokenizer = getattr(processing, "tokenizer", processing)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigurationError(
            f"{whose} asks the model, and needs the trainer's processing_class to be a tokenizer, got "
            f"{type(processing).__name__}. Pass processing_class=tokenizer."
        )
    if tokenizer.pad_token_id is None:
        raise ConfigurationError(
            f"{whose} asks the model several prompts at a time, and the trainer's tokenizer has no pad token. Set "
            "tokenizer.pad_token = tokenizer.eos_token."
        )
    return tokenizer
