"""Copies between the host and a device that do not have the host wait for what the device was given before."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class OnItsWay:
    """A tensor on its way to the host. :meth:`arrived` waits for this copy, and not for what is queued after it.

    Args:
        tensor: On any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        is_cuda = tensor.is_cuda
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=is_cuda)
        # Only where an event can tell that a copy has come to its end; on a CPU it has.
        self._host.copy_(tensor.detach(), non_blocking=is_cuda or tensor.device.type == "cpu")
        self._event = torch.cuda.current_stream(tensor.device).record_event() if is_cuda else None

    def arrived(self) -> Tensor:
        """The copy, on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


def on_device(values: Sequence[object], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of values that the host knows, queued to a device. PyTorch waits where it makes one there itself.

    Args:
        values: Numbers, nested or not.
        device: Where to.
        dtype: Of the tensor; None for what the values are.
    """
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def queueable(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch from which a copy to this device can be queued, as Lightning's are: for a GPU from pinned memory.

    Args:
        batch: On the host.
        device: Where it will go.
    """
    is_pinned = device.type == "cuda"
    return {name: v.pin_memory() if is_pinned and isinstance(v, Tensor) else v for name, v in batch.items()}
