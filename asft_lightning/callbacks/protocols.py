"""What the callbacks of this package want of a LightningModule and its data; any that have it will do."""

from typing import Any, Literal, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.weights.pretrained import Pretrained
from asft_lightning.weights.trained_weights import lora_layers


class ChatModule(Protocol):
    """A LightningModule around a chat model."""

    model: Any
    """A Transformers causal LM or a PEFT model of one: ``generate``, ``save_pretrained``."""
    tokenizer: PreTrainedTokenizerBase
    template: Template


class PretrainedModule(ChatModule, Protocol):
    """One that also tells which checkpoints it was made from."""

    pretrained: Pretrained


class UnsafePrompts(Protocol):
    """A LightningDataModule that tells which prompts must not be scored, for they are trained on."""

    @property
    def unsafe_prompts(self) -> frozenset[str]:
        """The prompts of its harmful and safety rows."""
        ...


_WANTED = {
    "model": "its Transformers or PEFT model",
    "tokenizer": "the model's tokenizer",
    "template": "asft_lightning.Template(), how prompts are written",
    "pretrained": "asft_lightning.Pretrained(aligned, base), which names the checkpoints",
}


def chat_module(
    callback: Callback, module: LightningModule, *needs: Literal["model", "tokenizer", "template"]
) -> ChatModule:
    """The module as a chat module; not before ``on_fit_start``, for a module may make its model in ``configure_model``.

    Args:
        callback: Who needs it.
        module: The module.
        needs: What it needs of it; all where nothing is named.

    Raises:
        ConfigurationError: If it lacks something; names it.
    """
    _require(callback, module, *(needs or ("model", "tokenizer", "template")))
    return cast(ChatModule, module)


def adapted_module(callback: Callback, module: LightningModule) -> ChatModule:
    """The module, whose model must carry LoRA, for callbacks that look at an adapter.

    Raises:
        ConfigurationError: If it has no model, or one without LoRA.
    """
    adapted = chat_module(callback, module, "model")
    if not lora_layers(adapted.model):
        raise ConfigurationError(
            f"{type(callback).__name__} looks at a LoRA adapter, and {type(module).__name__} trains none. Leave the "
            "callback out, or train LoRA (LoRAFineTuner, AsFT)."
        )
    return adapted


def pretrained_of(callback: Callback, module: LightningModule) -> Pretrained:
    """The checkpoints that a module was made from, for callbacks that look at them.

    Raises:
        ConfigurationError: If it does not tell.
    """
    _require(callback, module, "pretrained")
    pretrained = cast(PretrainedModule, module).pretrained
    if not isinstance(pretrained, Pretrained):
        raise ConfigurationError(
            f"{type(callback).__name__} needs a module with `pretrained`, which names the checkpoints, and "
            f"{type(module).__name__} has {pretrained!r}. Set it to asft_lightning.Pretrained(aligned, base)."
        )
    return pretrained


def unsafe_prompts_of(callback: Callback, trainer: Trainer) -> frozenset[str]:
    """The prompts that a run is trained on and that must not be scored; where the data does not tell, that is said."""
    data = getattr(trainer, "datamodule", None)
    if data is not None and hasattr(data, "unsafe_prompts"):
        return cast(UnsafePrompts, data).unsafe_prompts
    rank_zero_warn(
        f"{type(callback).__name__} cannot check that no scored prompt is trained on, for "
        f"{'there is no DataModule' if data is None else type(data).__name__ + ' has no `unsafe_prompts`'}. Give your "
        "DataModule one: a frozenset of the prompts of its harmful and safety rows, empty where there are none."
    )
    return frozenset()


def _require(callback: Callback, module: LightningModule, *names: str) -> None:
    known = set(dir(module))  # nothing is evaluated: a tokenizer may be loaded on first use
    if missing := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"{type(callback).__name__} needs a module with `{missing[0]}`, {_WANTED[missing[0]]}, and "
            f"{type(module).__name__} has none. Set it."
        )
