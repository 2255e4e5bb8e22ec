"""Which weight matrices are trained themselves, without LoRA; and which training changes, with it or without."""

from dataclasses import dataclass
from typing import cast

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from asft_lightning.errors import UnpenalisedError
from asft_lightning.weights.targets import Target, canonical_name, find_lora_factors


@dataclass(frozen=True)
class TrainedWeight:
    """The weight matrix of a linear layer that is trained; read at each use, since wrappers may swap the parameter."""

    target: Target
    layer: nn.Linear | Conv1D

    @property
    def parameter(self) -> nn.Parameter:
        """W as the layer keeps it: (d_out, d_in), or transposed."""
        return cast(nn.Parameter, self.layer.weight)


def find_trained_weights(model: nn.Module) -> list[TrainedWeight]:
    """All trainable weight matrices of linear layers, in the order of the modules of ``model``.

    A matrix that is also another kind of module's, as the embeddings' that a head is tied to, is none of them.

    Raises:
        UnpenalisedError: If there are none, or the model has LoRA layers.
    """
    _require_no_lora(model)
    owned_by_others = {id(p) for m in model.modules() if not _is_linear(m) for p in m.parameters(recurse=False)}
    found: dict[int, TrainedWeight] = {}
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if (
            _is_linear(layer)
            and isinstance(weight, nn.Parameter)
            and weight.requires_grad
            and id(weight) not in owned_by_others
        ):
            found.setdefault(id(weight), TrainedWeight(_target(canonical_name(name), layer, weight), layer))
    if not found:
        raise UnpenalisedError(
            f"the penalty needs a model with trainable LoRA layers or linear layers, and {type(model).__name__} has none. "
            "Wrap it with peft.get_peft_model, or let the weights of linear layers require gradients."
        )
    return list(found.values())


def trained_targets(model: nn.Module) -> list[Target]:
    """The weight matrices that training changes, each once: those that LoRA layers update, or that are trained themselves.

    Raises:
        UnpenalisedError: If there are none, or a LoRA layer's update is not B·A.
    """
    trained = find_lora_factors(model) if lora_layers(model) else find_trained_weights(model)
    return list({part.target.name: part.target for part in trained}.values())


def lora_layers(model: nn.Module) -> list[str]:
    """The names of a model's LoRA layers."""
    return [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _require_no_lora(model: nn.Module) -> None:
    if adapted := lora_layers(model):
        raise UnpenalisedError(
            f"{canonical_name(adapted[0])}: weights that are trained themselves must carry no LoRA, and this model has LoRA "
            "layers. Use UpdatePenalty, or merge the adapter first."
        )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _target(name: str, layer: nn.Module, weight: nn.Parameter) -> Target:
    rows, columns = weight.shape
    is_transposed = isinstance(layer, Conv1D)
    return Target(name, (columns, rows) if is_transposed else (rows, columns), is_transposed)
