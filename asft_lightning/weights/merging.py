"""An adapter merged into its model: a plain model that says the same, or an error."""

import math
import warnings

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.reading import UNREADABLE, is_finite


def merge(model: PeftModel) -> tuple[PreTrainedModel, list[str]]:
    """The model with the update in its weights, and the names of those that are no longer shared with another.

    A weight that two modules share (``lm_head`` and the embeddings, where they are tied) is first given to each, for the
    update is one module's.

    Raises:
        ConfigurationError: If it has no merged weights, or one is then no finite number.
    """
    untied = _untie(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT, of tied weights
        try:
            plain: PreTrainedModel = model.merge_and_unload()
        except UNREADABLE as error:  # kinds of LoRA that have no merged weights
            raise ConfigurationError(
                f"this adapter cannot be merged into its model ({error!s:.200}). Export the adapter: leave out --merged."
            ) from error
    for name, weight in plain.state_dict().items():
        if not is_finite(weight):
            raise ConfigurationError(
                f"{name}: weights must be finite, and merging made NaN or Inf of this one in {weight.dtype}. Export the "
                "adapter (leave out --merged), or set a wider pretrained.dtype in the run's config.yaml."
            )
    return plain, untied


@torch.no_grad()
def logits_of(model: nn.Module, ids: list[int]) -> Tensor:
    """What a model says to some tokens (tokens, vocabulary), in float64; a constant added to all logits says nothing."""
    logits: Tensor = model.eval()(input_ids=torch.tensor([ids])).logits[0].double()
    return logits - logits.mean(-1, keepdim=True)


def require_same_logits(merged: nn.Module, found: Tensor, expected: Tensor) -> None:
    """A merged model must say what the model with its adapter said, to half of the digits of its numbers.

    Args:
        merged: The model, for its dtype.
        found: Its logits, from :func:`logits_of`.
        expected: Those of the model with the adapter.

    Raises:
        ConfigurationError: If it does not.
    """
    dtypes = {parameter.dtype for parameter in merged.parameters() if parameter.is_floating_point()} | {torch.float32}
    tolerance = math.sqrt(max(torch.finfo(dtype).eps for dtype in dtypes))  # factors are float32 where a model is wider
    off = float((found - expected).norm() / expected.norm())
    if not off <= tolerance:  # nor NaN
        raise ConfigurationError(
            f"a merged model's logits must be those of the model with its adapter within {tolerance:.2%}, and they are off "
            f"by {off:.2%}. Export the adapter: leave out --merged."
        )


def _untie(model: PeftModel) -> list[str]:
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    untied = []
    for name, layer in model.named_modules():
        base = layer.get_base_layer() if isinstance(layer, LoraLayer) else None
        weight = getattr(base, "weight", None)
        if base is not None and isinstance(weight, nn.Parameter) and holders[id(weight)] > 1:
            base.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
            untied.append(name.removeprefix("base_model.model."))
    return untied
