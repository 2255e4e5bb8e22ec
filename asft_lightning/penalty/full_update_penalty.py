"""FullUpdatePenalty: the anchors bound to weight matrices that are trained themselves, by name."""

from torch import nn

from asft_lightning.anchors.anchor_set import AnchorSet
from asft_lightning.penalty.binding import BoundPenalty, by_kind, require_same_modules
from asft_lightning.penalty.weight_groups import BoundWeight, WeightGroup, in_batches
from asft_lightning.weights.targets import require_all_bound
from asft_lightning.weights.trained_weights import find_trained_weights


class FullUpdatePenalty(BoundPenalty):
    """Σ_l ‖(I − C_l) ΔW_l‖²_F over the linear layers that a model trains, ΔW = W − W_aligned.

    :class:`UpdatePenalty` without LoRA. The weights of the model when it is bound are W_aligned: a copy is kept, in 16 bits
    where that loses nothing. What is trainable must be exactly the weight matrices of the anchors. The rest is as there:
    float32 or wider with autocast off, layers of one shape in batched products, nothing of it in the ``state_dict``.

    Args:
        model: A plain model with the aligned weights, of which the anchors' linear layers are trainable.
        anchors: What :func:`build_anchors` made for it.
        allow_unpenalised: Let other parameters be trained too, unseen by the penalty; they are logged.
        anchors_on_host: Keep the directions in (pinned) host memory, and copy them to the weights' device at each call:
            device memory for time.
        aligned_on_host: Keep W_aligned there likewise.

    Raises:
        UnpenalisedError: If something would be trained that no anchor sees, an anchor finds no layer, or there is LoRA.
    """

    def __init__(
        self,
        model: nn.Module,
        anchors: AnchorSet,
        *,
        allow_unpenalised: bool = False,
        anchors_on_host: bool = False,
        aligned_on_host: bool = False,
    ) -> None:
        weights = find_trained_weights(model)
        layers = {weight.target.name: weight.target.shape for weight in weights}
        remedy = "Build the anchors for this model and these targets."
        require_same_modules(layers, anchors, "weight matrices", remedy)
        bound = [weight.parameter for weight in weights]
        freezing = "(leave them out of also_train)"
        unpenalised = require_all_bound(model, bound, allow_unpenalised, "weight matrices", freezing)
        kinds = by_kind(BoundWeight.of(weight, anchors.terms) for weight in weights)
        parts = [part for members in kinds for part in in_batches(members)]
        groups = [WeightGroup(part, anchors_on_host, aligned_on_host) for part in parts]
        super().__init__(groups, anchors, unpenalised)
