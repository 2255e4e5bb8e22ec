"""UpdatePenalty: the anchors bound to a model's LoRA layers, by name."""

from torch import nn

from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.penalty.binding import BoundPenalty, by_kind, require_same_modules
from asft_lightning.penalty.layer_groups import BoundLayer, LayerGroup
from asft_lightning.penalty.reference_penalty import held_prompts
from asft_lightning.penalty.safety_module import SafetyModule
from asft_lightning.weights.targets import find_lora_factors, require_only_bound_trainable, require_zero_start


class UpdatePenalty(BoundPenalty):
    """Σ_l ‖(I − C_l) B_l A_l‖²_F over the LoRA layers of a model: call it without arguments, add λ times it to the loss.

    The sum runs over every anchor of the set (times its weight) and every trainable adapter. Layers of one shape go
    through one batched product, so the number of kernels does not grow with depth. Anchors stay float32 (or wider)
    whatever the module is cast to, autocast is off inside, and nothing of it is in the ``state_dict``: anchors have a
    file of their own.

    Args:
        model: A model with PEFT LoRA layers, wrapped or not.
        anchors: What :func:`build_anchors` made for it.
        scale_update: Penalise (α/r)·B·A, the true update, instead of the bare product of the authors' code.
        resumed: The adapter was trained from this aligned model before, so that B·A need not be 0 now.
        allow_unpenalised: Let other parameters be trained too, unseen by the penalty; they are logged.
        anchors_on_host: Keep the directions in (pinned) host memory, and copy them to the factors' device at each call:
            device memory for time.

    Raises:
        UnpenalisedError: If something would be trained that no anchor sees, or an anchor finds no layer.

    Example::

        anchors = build_anchors(model=model, aligned="org/model-chat", base="org/model", anchors=[Gram()])
        penalty = UpdatePenalty(model, anchors)
        loss = task_loss + 1.0 * penalty()
    """

    def __init__(
        self,
        model: nn.Module,
        anchors: AnchorSet,
        *,
        scale_update: bool = False,
        resumed: bool = False,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
    ) -> None:
        factors = find_lora_factors(model)
        layers = {factor.target.name: factor.target.shape for factor in factors}
        remedy = "Build the anchors for this model and these target_modules."
        require_same_modules(layers, anchors, "LoRA layers", remedy)
        unpenalised = require_only_bound_trainable(model, factors, allow_unpenalised)
        if not resumed:
            require_zero_start(factors)
        members = [BoundLayer.of(factor, anchors.terms, scale_update) for factor in factors]
        super().__init__([LayerGroup(group, anchors_on_host) for group in by_kind(members)], anchors, unpenalised)


def probed_prompts(module: nn.Module) -> frozenset[str]:
    """A hash of each prompt that a module is protected by: its anchors were built from it, or its answer is held."""
    penalties = (part for part in module.modules() if isinstance(part, BoundPenalty | SafetyModule))
    return held_prompts(module) | {prompt for penalty in penalties for prompt in penalty.prompts}
