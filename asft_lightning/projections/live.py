"""A projection of the adapter that a model in memory carries."""

import torch
from torch import nn

from asft_lightning.anchors import WeightPair
from asft_lightning.projections.projection import Layer, ProjectedLayer, Projection
from asft_lightning.runtime.sharding import put_together, sharded_like
from asft_lightning.weights.targets import find_lora_factors


def project_model(model: nn.Module, method: Projection, weights: WeightPair) -> list[ProjectedLayer]:
    """Project the trainable adapter of ``model``, in place; on every rank where it is sharded.

    Args:
        model: With PEFT LoRA layers.
        method: What to do.
        weights: The checkpoints that ``method`` needs, of :meth:`Projection.open`.

    Returns:
        What became of each layer, in the order of the model's modules.

    Raises:
        UnpenalisedError: If the model has no trainable LoRA layers, or one whose update is not B·A.
    """
    factors = find_lora_factors(model)
    projected = method.project([Layer(f.target, *put_together((f.a, f.b)), f.scaling) for f in factors], weights)
    with torch.no_grad():
        for factor, layer in zip(factors, projected, strict=True):
            if layer.changed:
                factor.a.copy_(sharded_like(layer.a, factor.a))
                factor.b.copy_(sharded_like(layer.b, factor.b))
    return projected
