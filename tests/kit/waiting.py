"""A CPU that plays a device: what of it would have the host wait, if it were one."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

_ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "unique_dim", "_unique2")
_INDEXES = ("index", "index_put", "index_put_")


def _has_mask(indices):
    return any(index is not None and index.dtype == torch.bool for index in indices)


class Waits(TorchDispatchMode):
    """Counts, while ``is_counting``, what reads values or shapes from tensors that would be on the device.

    Those are the ones given to :meth:`place`, and all that is computed from one of them, but for what a copy that does not
    block has brought to the host.
    """

    def __init__(self):
        super().__init__()
        self.found, self.is_counting, self._placed = Counter(), False, WeakIdKeyDictionary()

    def place(self, tensors):
        for tensor in tensors:
            self._placed[tensor] = True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_placed = any(tensor in self._placed for tensor in given)
        name = function.overloadpacket.__name__
        is_queued_copy = (
            name == "copy_" and args[0] not in self._placed and any(a is True for a in (*args, *kwargs.values()))
        )
        if self.is_counting and is_placed and (name in _ASKS or (name in _INDEXES and _has_mask(args[1]))):
            self.found[name] += 1
        result = function(*args, **kwargs)
        if is_placed and not is_queued_copy:
            self.place(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result
