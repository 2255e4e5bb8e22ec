"""Layers watched while a model runs: which they are, their hooks, and what is put into them."""

from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from asft_lightning.anchors.second_moment import SecondMoment
from asft_lightning.errors import AnchorError
from asft_lightning.weights.targets import canonical_name


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Keep hooks for as long as the block lasts, however it ends."""
    registered = list(handles)
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()


def layers_of(model: nn.Module, names: Collection[str]) -> list[tuple[str, nn.Module]]:
    """The modules of these canonical names; of a layer with an adapter the whole, not the weight inside.

    Raises:
        AnchorError: If one is absent.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if (plain := canonical_name(name)) in names:
            layers.setdefault(plain, module)
    if absent := [name for name in names if name not in layers]:
        raise AnchorError(f"{absent[0]}: the model to run must have every targeted layer, and lacks this one.")
    return list(layers.items())


def gradients_from_embeddings(model: PreTrainedModel | PeftModel) -> RemovableHandle:
    """The hook that has gradients of what layers put out, from the embeddings on, where no weight has one."""
    embeddings: nn.Module = model.get_input_embeddings()
    return embeddings.register_forward_hook(lambda _, args, out: out.requires_grad_())


class InputWatch:
    """Adds what is put into layers to their second moments; set ``counted`` before each forward pass.

    Layers that are given the very same tensor, as the q, k and v of one attention, come to share one moment.

    Args:
        moments: {layer: its moment, still empty}.
    """

    def __init__(self, moments: MutableMapping[str, SecondMoment]) -> None:
        self._moments = moments
        self._latest: tuple[Tensor | None, SecondMoment] = None, SecondMoment(0, 1)  # put in last, and where it was counted
        self._sharing = set[str]()  # layers whose moment is another's
        self.counted = torch.empty(0, dtype=torch.bool)  # which tokens of the batch (rows, tokens)

    def of(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """The forward pre-hook of one layer."""

        def add(_: nn.Module, args: tuple[Any, ...]) -> None:
            inputs, moment = args[0], self._moments[name]
            latest, counted_in = self._latest
            is_latest = inputs is latest
            if is_latest and not moment.count:
                self._sharing.add(name)
                self._moments[name] = counted_in
            if name not in self._sharing:
                moment.add(self._chosen(name, inputs))
                self._latest = inputs, moment
            elif not is_latest:
                raise AnchorError(
                    f"{name}: Activation needs layers that are given the same as another one always or never, and this one "
                    "was on some prompts alone. Leave it out of target_modules, or use another anchor."
                )

        return add

    def _chosen(self, name: str, inputs: Tensor) -> Tensor:
        """The inputs of the tokens that count (n, d)."""
        if inputs.shape[:-1] != self.counted.shape:
            raise AnchorError(
                f"{name}: Activation needs layers that see every token at its place, and this one sees "
                f"{tuple(inputs.shape)} where {tuple(self.counted.shape)} tokens are (experts that tokens are routed to?). "
                "Leave it out of target_modules, or use another anchor."
            )
        chosen = inputs[self.counted]
        if not bool(chosen.isfinite().all()):
            raise AnchorError(
                f"{name}: what the aligned model puts into the layer must be finite, and holds NaN or Inf on some "
                "prompts. Load it in bfloat16 or float32."
            )
        return chosen
