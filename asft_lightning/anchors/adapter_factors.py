"""The factors of a trained adapter, read from its files."""

from torch import Tensor

from asft_lightning.anchors.checkpoints import Weights
from asft_lightning.anchors.targets import Target
from asft_lightning.checkpoint_files import is_finite
from asft_lightning.errors import AnchorError


def read_factors(adapter: Weights, target: Target) -> tuple[Tensor, Tensor]:
    """A (r, d_in) and B (d_out, r) of one layer of an adapter in PEFT's format, finite.

    Raises:
        AnchorError: If the adapter lacks the layer, or its factors do not fit or are not finite.
    """
    factors = []
    for factor in ("lora_A", "lora_B"):
        try:
            tensor = adapter[f"{target.name}.{factor}.weight"]
        except KeyError:
            raise AnchorError(
                f"{target.name}: the adapter {adapter.label} must have every layer of the anchors, and lacks its "
                f"{factor}. Tune it with the same target_modules."
            ) from None
        if not is_finite(tensor):
            raise AnchorError(
                f"{target.name}: the adapter {adapter.label} must be finite, but its {factor} holds NaN or Inf. "
                "Tune it again, with a smaller learning rate."
            )
        factors.append(tensor)
    a, b = factors
    if (b.shape[0], a.shape[1]) != target.shape:
        raise AnchorError(
            f"{target.name}: the update of {adapter.label} must have the layer's shape {target.shape}, got "
            f"{(b.shape[0], a.shape[1])}. Tune the adapter on the same model."
        )
    return a, b
