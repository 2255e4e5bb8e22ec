"""Which weights an update changes: the LoRA factors of a model, found by type and named as in its checkpoint."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from asft_lightning.errors import UnpenalisedError

# Segments that wrappers (torch.compile, FSDP, activation checkpointing) add anywhere in a module's name.
_WRAPPER_SEGMENTS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Starts that move the principal part of the weight into B·A: the update is then not B·A but B·A minus its start.
_REWEIGHTING_STARTS = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class Target:
    """One weight matrix with an anchor.

    Args:
        name: Its module's name in the plain Transformers model, e.g. ``model.layers.0.self_attn.q_proj``.
        shape: (d_out, d_in).
        transposed: Whether the checkpoint keeps it as (d_in, d_out), as GPT-2's Conv1D does.
    """

    name: str
    shape: tuple[int, int]
    transposed: bool = False


@dataclass(frozen=True)
class LoRAFactors:
    """The trainable factors of one adapter on one layer; read at each use, since wrappers may swap the parameters."""

    target: Target
    layer: LoraLayer
    adapter: str

    @property
    def a(self) -> nn.Parameter:
        """A, (r, d_in)."""
        weight: nn.Parameter = self.layer.lora_A[self.adapter].weight
        return weight

    @property
    def b(self) -> nn.Parameter:
        """B, (d_out, r)."""
        weight: nn.Parameter = self.layer.lora_B[self.adapter].weight
        return weight

    @property
    def scaling(self) -> float:
        """α/r, by which PEFT multiplies B·A."""
        return float(self.layer.scaling[self.adapter])


def canonical_name(name: str) -> str:
    """The name of a module or weight in the plain model: without PEFT's, the compiler's and the strategies' wrappers.

    >>> canonical_name("base_model.model.model.layers.0.q_proj.base_layer.weight")
    'model.layers.0.q_proj.weight'
    >>> canonical_name("_orig_mod.module.base_model.model.lm_head")
    'lm_head'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPER_SEGMENTS]
    for i in range(len(parts) - 1):
        if parts[i : i + 2] == ["base_model", "model"]:
            parts = parts[i + 2 :]
            break
    if parts and parts[0] == "module":  # DistributedDataParallel
        parts = parts[1:]
    return ".".join(part for part in parts if part != "base_layer")


def find_lora_factors(model: nn.Module) -> list[LoRAFactors]:
    """All trainable LoRA factors of ``model``, in the order of its modules.

    Raises:
        UnpenalisedError: If there are none, or one is of a kind whose update is not B·A.
    """
    configs = _adapter_configs(model)
    factors = []
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        for adapter in _trainable_adapters(layer):
            _require_plain_update(canonical_name(name), layer, adapter, configs.get(adapter))
            factors.append(LoRAFactors(_target(canonical_name(name), layer), layer, adapter))
    if not factors:
        raise UnpenalisedError(
            f"the penalty needs a model with trainable LoRA layers, and {type(model).__name__} has none. Wrap it with "
            "peft.get_peft_model, or load its adapter with PeftModel.from_pretrained(..., is_trainable=True)."
        )
    return factors


def require_only_bound_trainable(model: nn.Module, factors: Iterable[LoRAFactors], allow_unpenalised: bool) -> list[str]:
    """What is trainable must be exactly the bound factors.

    Returns:
        The names of other trainable parameters, where ``allow_unpenalised`` lets them pass.

    Raises:
        UnpenalisedError: If there are any and it does not.
    """
    bound = [parameter for factor in factors for parameter in (factor.a, factor.b)]
    freezing = "(bias='none', no lora_bias, no modules_to_save)"
    return require_all_bound(model, bound, allow_unpenalised, "LoRA factors", freezing)


def require_all_bound(
    model: nn.Module, bound: Iterable[nn.Parameter], allow_unpenalised: bool, what: str, freezing: str
) -> list[str]:
    """What is trainable must be exactly the bound parameters.

    Args:
        model: The model.
        bound: What a penalty sees.
        allow_unpenalised: Let others pass.
        what: What they are, for an error.
        freezing: How to freeze others, likewise.

    Returns:
        The names of others, where ``allow_unpenalised`` lets them pass.

    Raises:
        UnpenalisedError: If there are any and it does not.
    """
    known = {id(parameter) for parameter in bound}
    free = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    if free and not allow_unpenalised:
        shown = ", ".join(free[:3]) + (f" and {len(free) - 3} more" if len(free) > 3 else "")
        raise UnpenalisedError(
            f"what is trained must be exactly the penalised {what}, but {shown} would be trained as well, unseen "
            f"by the penalty. Freeze them {freezing}, or pass allow_unpenalised=True."
        )
    return free


def require_zero_start(factors: Iterable[LoRAFactors]) -> None:
    """B·A must be 0 where training starts from the aligned model itself.

    Raises:
        UnpenalisedError: If a factor B is not zero.
    """
    for factor in factors:
        if factor.b.device.type != "meta" and bool(factor.b.detach().any()):
            raise UnpenalisedError(
                f"{factor.target.name}: the update B·A must be 0 at the start, but lora_B of adapter "
                f"'{factor.adapter}' is not. Use init_lora_weights=True or 'gaussian'; if this adapter was trained on "
                "this aligned model and goes on from there, say so with resumed=True."
            )


def _trainable_adapters(layer: LoraLayer) -> list[str]:
    names: dict[str, None] = {}
    for holder in (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B):
        for adapter, module in holder.items():
            parameters: Iterable[Tensor] = module.parameters() if isinstance(module, nn.Module) else [module]
            if any(p.requires_grad for p in parameters):
                names[adapter] = None
    return list(names)


def _adapter_configs(model: nn.Module) -> dict[str, Any]:
    """{adapter: its PEFT configuration}, wherever in ``model`` the PEFT model is."""
    held = (getattr(module, "peft_config", None) for module in model.modules())
    return {name: config for configs in held if isinstance(configs, dict) for name, config in configs.items()}


def _is_linear(layer: LoraLayer, adapter: str) -> bool:
    plain = isinstance(layer.get_base_layer(), (nn.Linear, Conv1D)) and not isinstance(layer, ParamWrapper)
    return plain and adapter in layer.lora_A and hasattr(layer.lora_A[adapter], "weight")


def _require_plain_update(name: str, layer: LoraLayer, adapter: str, config: Any) -> None:
    """The penalty is exact for updates that are B·A on a linear weight; anything else must not pass for it."""
    kind, base = type(layer).__name__, type(layer.get_base_layer()).__name__
    start = str(getattr(config, "init_lora_weights", True))
    reasons = {
        f"a {kind} on a {base} (embedding, convolution or target_parameters)": not _is_linear(layer, adapter),
        f"the {type(layer.lora_variant.get(adapter)).__name__} of LoRA (DoRA, aLoRA, …)": adapter in layer.lora_variant,
        f"init_lora_weights={start!r}, which changes the base weight": start.lower().startswith(_REWEIGHTING_STARTS),
        "layer_replication, after which a layer's name is another layer's in the checkpoint": bool(
            getattr(config, "layer_replication", None)
        ),
        "an adapter merged into the weight": bool(layer.merged_adapters),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UnpenalisedError(
                f"{name}: the update of a penalised layer must be B·A on a linear weight, and this one has {reason}. "
                "Use plain LoRA (peft.LoraConfig with use_dora=False, init_lora_weights=True) on linear layers, unmerged."
            )


def _target(name: str, layer: LoraLayer) -> Target:
    transposed = isinstance(layer.get_base_layer(), Conv1D)
    return Target(name, (int(layer.out_features), int(layer.in_features)), transposed)
