"""FSDP2: a model sharded over ranks, each rank's piece of what is trained of it, and sums over the pieces."""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from asft_lightning.errors import ConfigurationError

T = TypeVar("T")


def shard(model: PreTrainedModel | PeftModel, mesh: DeviceMesh) -> None:
    """Shard a model over a mesh of one dimension: block by block, and what is left with the plain model as the root.

    What is trained starts as it is on the first rank, as under DDP: each rank draws its own LoRA factors.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    first = torch.distributed.get_global_rank(mesh.get_group(), 0)
    for parameter in base.parameters():
        if parameter.requires_grad:
            value = parameter.data.to(mesh.device_type)  # where the ranks can talk
            torch.distributed.broadcast(value, first, group=mesh.get_group())
            parameter.data.copy_(value)
    blocks = set(base._no_split_modules or ())
    for module in base.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(base, mesh=mesh)


def forward_root(model: nn.Module) -> nn.Module:
    """What to call for a forward pass: of a sharded model the base, by which generation enters too.

    FSDP2 takes the module that is called first for the root of all, and PEFT's wrapper passes the base model's own call by.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(nn.Module, base) if isinstance(base, FSDPModule) else model


def sharded_over(model: nn.Module) -> DeviceMesh | None:
    """The ranks that a model's weights are sharded over; None where each has all of them."""
    sharded_parameter = next((parameter for parameter in model.parameters() if isinstance(parameter, DTensor)), None)
    return None if sharded_parameter is None else sharded_parameter.device_mesh


def put_together(state: T) -> T:
    """A tensor, or nested dicts and lists of some, with each whole and on the host; every rank has to ask."""

    def full_on_host(tensor: Tensor) -> Tensor:
        value = tensor.detach()
        return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()

    return cast(T, tree_map_only(Tensor, full_on_host, state))


def sharded_like(value: Any, other: Any) -> Any:
    """This rank's part of a tensor that every rank has whole, if ``other`` is a sharded one of its shape; else ``value``.

    Every rank has to ask, and gets its part of the first one's value.
    """
    if not isinstance(other, DTensor) or not isinstance(value, Tensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)


def mesh_of(factor: Tensor) -> DeviceMesh | None:
    """The ranks over which a factor or weight is sharded by rows, as ``fully_shard`` does; None where each has all of it.

    Raises:
        ConfigurationError: If it is distributed in another way.
    """
    if not isinstance(factor, DTensor):
        return None
    if factor.device_mesh.ndim != 1 or factor.placements != (Shard(0),):
        raise ConfigurationError(
            f"what is trained must be sharded by rows over one axis of ranks, got {factor.placements} over "
            f"{factor.device_mesh}. Use asft_lightning.FSDP2Strategy, or fully_shard over a mesh of one dimension."
        )
    return factor.device_mesh


def own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; the tensor itself where each has all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def stacked_shards(factors: Sequence[Tensor], width: int, dtype: torch.dtype) -> Tensor:
    """This rank's piece of L sharded factors of one shape (m, n), stacked (L, m, n) and sharded along ``width``.

    One all-to-all for all of them where their rows are not that dimension; gradients go the same way back.

    Args:
        factors: Each sharded by rows.
        width: 1 for the rows of the factors (m), 2 for their columns (n).
        dtype: Of the result.
    """
    mesh = mesh_of(factors[0])
    assert mesh is not None
    local = torch.stack([factor.to_local().to(dtype) for factor in factors])  # type: ignore[attr-defined]
    if width == 1:
        return local
    shape = torch.Size((len(factors), *factors[0].shape))
    stride = (shape[1] * shape[2], shape[2], 1)
    stacked = DTensor.from_local(local, mesh, [Shard(1)], run_check=False, shape=shape, stride=stride)
    moved: Tensor = stacked.redistribute(mesh, [Shard(width)]).to_local()
    return moved


def rows_of_columns(local: Tensor, mesh: DeviceMesh, shape: torch.Size) -> Tensor:
    """The way back from ``stacked_shards(…, width=2)``: this rank's columns of L factors (L, m, ·) as its rows (L, ·, n).

    Args:
        local: This rank's columns.
        mesh: The ranks.
        shape: (m, n) of each whole factor.
    """
    stacked_shape = torch.Size((len(local), *shape))
    stride = (stacked_shape[1] * stacked_shape[2], stacked_shape[2], 1)
    columns = DTensor.from_local(local.contiguous(), mesh, [Shard(2)], run_check=False, shape=stacked_shape, stride=stride)
    rows: Tensor = columns.redistribute(mesh, [Shard(1)]).to_local()
    return rows


def own_rows(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """This rank's rows (dimension −2) of a tensor that every rank has whole, as ``fully_shard`` would part them."""
    parts = tensor.chunk(mesh.size(), dim=-2)
    rank = mesh.get_local_rank()
    return parts[rank].clone() if rank < len(parts) else tensor[..., :0, :].clone()


class SumOverRanks:
    """The sum over a mesh's ranks, on every rank; outside of autograd."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    def __call__(self, tensor: Tensor) -> Tensor:
        """The sum of every rank's ``tensor``."""
        total = tensor.contiguous().clone()
        torch.distributed.all_reduce(total, group=self.mesh.get_group())
        return total
