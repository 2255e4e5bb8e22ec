"""Weights by name, one matrix at a time, from wherever a user keeps a model. Nothing from a file is executed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from asft_lightning.errors import AnchorError
from asft_lightning.runtime.reading import is_finite, readable
from asft_lightning.weights.files import find_file, find_index, open_safetensors, unpickle
from asft_lightning.weights.hashing import content_hash
from asft_lightning.weights.locations import resolve_folder
from asft_lightning.weights.targets import Target, canonical_name

WeightSource: TypeAlias = str | Path | nn.Module | Mapping[str, Tensor]
"""A hub id, a local directory, a live module, or {name: tensor}."""


class Weights(ABC):
    """The weights of one model, read when asked for.

    Args:
        label: What to call the source in an error.
        names: The tensors' own names.
    """

    def __init__(self, label: str, names: list[str]) -> None:
        self.label = label
        self._own_names = {canonical_name(name): name for name in names}

    @property
    def names(self) -> list[str]:
        """The canonical names of its tensors."""
        return list(self._own_names)

    @abstractmethod
    def _read(self, own_name: str) -> Tensor:
        """One tensor by its own name."""

    def __getitem__(self, name: str) -> Tensor:
        """The tensor with this canonical name.

        Raises:
            KeyError: If there is none.
        """
        return self._read(self._own_names[name])

    def matrix(self, target: Target) -> Tensor:
        """The weight of ``target`` as (d_out, d_in) in its own dtype, finite.

        Raises:
            AnchorError: If it is absent, of another shape or kind, or holds NaN or Inf.
        """
        weight = self[self._name_of(target)]
        weight = weight.mT if target.transposed and weight.ndim == 2 else weight
        if tuple(weight.shape) != target.shape:
            raise AnchorError(
                f"{target.name}: the weight in {self.label} must have the layer's shape {target.shape}, got "
                f"{tuple(weight.shape)}. Is {self.label} the same architecture, size and vocabulary?"
            )
        if not weight.is_floating_point() or weight.element_size() < 2:
            raise AnchorError(
                f"{target.name}: weights must be floating-point numbers of 16 bits or more, but {self.label} holds "
                f"{weight.dtype}. Give the checkpoint as it was before it was quantised."
            )
        if not is_finite(weight):
            raise AnchorError(
                f"{target.name}: weights must be finite, but {self.label} holds NaN or Inf there. Get the file again."
            )
        return weight.detach()

    def fingerprint(self, targets: Iterable[Target]) -> str:
        """SHA-256 of the weights of ``targets``, by their content.

        Raises:
            AnchorError: If one is absent.
        """
        return content_hash((target.name, self[self._name_of(target)]) for target in targets)

    def whole_fingerprint(self) -> str:
        """SHA-256 of all weights but those of adapters, by their content."""
        return content_hash((name, self[name]) for name in sorted(self.names) if ".lora_" not in name)

    def _name_of(self, target: Target) -> str:
        # A checkpoint saved from the bare backbone lacks the first segment ("model.", "transformer.").
        for name in (f"{target.name}.weight", f"{target.name.partition('.')[2]}.weight"):
            if name in self._own_names:
                return name
        raise AnchorError(
            f"{target.name}: no weight of this name in {self.label} ({len(self._own_names)} tensors, e.g. "
            f"{', '.join(list(self._own_names)[:2])}). Aligned and base checkpoints must be of the model's own "
            "architecture; a weight tied to another (lm_head to the embeddings) is not stored, and cannot be a LoRA target."
        )


class _Tensors(Weights):
    """{name: tensor}, or a live module's."""

    def __init__(self, label: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(label, list(tensors))
        self._tensors = tensors

    def _read(self, own_name: str) -> Tensor:
        return self._tensors[own_name]


class _Files(Weights):
    """Files of a directory: {own name: file name}; safetensors are memory-mapped, others unpickled as weights only."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        super().__init__(str(folder), list(files))
        self._folder = folder
        self._files = files
        self._unpickled: tuple[str, Mapping[str, Tensor]] = ("", {})

    def _read(self, own_name: str) -> Tensor:
        file = self._files[own_name]
        if file.endswith(".safetensors"):
            return _tensor_in(self._folder / file, own_name)
        if self._unpickled[0] != file:
            self._unpickled = (file, unpickle(self._folder / file))
        return readable(self._folder / file, lambda: self._unpickled[1][own_name])


def open_weights(source: WeightSource, revision: str | None = None) -> Weights:
    """Open a hub id, a directory (single or sharded, safetensors first), a live module or a mapping.

    Raises:
        ConfigurationError: If the source cannot be found, holds no weights, or an index is not to be trusted.
    """
    if isinstance(source, nn.Module):
        return _Tensors(type(source).__name__, source.state_dict())
    if isinstance(source, Mapping):
        return _Tensors("the given tensors", source)
    folder = resolve_folder(str(source), revision)
    index = find_index(folder)
    if index is not None:
        return _Files(folder, index)
    file = find_file(folder)
    return _Files(folder, dict.fromkeys(_names_in(folder / file), file))


def _names_in(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        with open_safetensors(path) as handle:
            return list(handle.keys())
    return list(unpickle(path))


def _tensor_in(path: Path, own_name: str) -> Tensor:
    with open_safetensors(path) as handle:
        tensor: Tensor = readable(path, lambda: handle.get_tensor(own_name))
        return tensor
