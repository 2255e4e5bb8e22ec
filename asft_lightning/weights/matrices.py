"""Weights by name, one matrix at a time, from wherever a user keeps a model. Nothing from a file is executed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from asft_lightning.errors import AnchorError
from asft_lightning.runtime.reading import is_finite, readable
from asft_lightning.weights.file_names import FileNames
from asft_lightning.weights.files import find_file, find_index, open_safetensors, unpickle
from asft_lightning.weights.hashing import content_hash
from asft_lightning.weights.locations import resolve_folder
from asft_lightning.weights.targets import Target

WeightSource: TypeAlias = str | Path | nn.Module | Mapping[str, Tensor]
"""A hub id, a local directory, a live module, or {name: tensor}."""


class Weights(ABC):
    """The weights of one model, read when asked for.

    Args:
        label: What to call the source in an error.
        names: Of the tensors.
    """

    def __init__(self, label: str, names: FileNames) -> None:
        self.label = label
        self._names = names

    @property
    def names(self) -> Mapping[str, str]:
        """{canonical name of a tensor: its own name}."""
        return self._names.own

    @abstractmethod
    def _read(self, own_name: str) -> Tensor:
        """One tensor by its own name."""

    def __getitem__(self, name: str) -> Tensor:
        """The tensor with this canonical name.

        Raises:
            KeyError: If there is none.
        """
        return self._read(self.names[name])

    def matrix(self, target: Target) -> Tensor:
        """The weight of ``target`` as (d_out, d_in) in its own dtype, finite.

        Raises:
            AnchorError: If it is absent, of another shape or kind, or holds NaN or Inf.
        """
        weight = self[self._name_of(target)]
        weight = weight.mT if target.transposed and weight.ndim == 2 else weight
        return self._sound(target.name, weight, target.shape)

    def weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A weight of any kind by its canonical name, e.g. of a norm, in its own dtype, finite.

        Raises:
            AnchorError: As :meth:`matrix`.
        """
        module, _, kind = name.rpartition(".")
        return self._sound(module, self[self._name_of(Target(module, (0, 0)), kind)], shape)

    def _sound(self, name: str, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not weight.is_floating_point() or weight.element_size() < 2:  # packed, it has another shape as well
            raise AnchorError(
                f"{name}: weights must be floating-point numbers of 16 bits or more, but {self.label} holds "
                f"{weight.dtype}. Give the checkpoint as it was before it was quantised."
            )
        if tuple(weight.shape) != shape:
            raise AnchorError(
                f"{name}: the weight in {self.label} must have the layer's shape {shape}, got "
                f"{tuple(weight.shape)}. Is {self.label} the same architecture, size and vocabulary?"
            )
        if not is_finite(weight):
            raise AnchorError(
                f"{name}: weights must be finite, but {self.label} holds NaN or Inf there. Get the file again."
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

    def _name_of(self, target: Target, kind: str = "weight") -> str:
        # A checkpoint saved from the bare backbone lacks the first segment ("model.", "transformer.").
        for name in (f"{target.name}.{kind}", f"{target.name.partition('.')[2]}.{kind}"):
            if name in self.names and name not in self._names.remade:
                return name
        if remade := sorted(self._names.remade):
            raise AnchorError(
                f"{target.name}: no weight of {self.label} is this matrix as it stands: Transformers makes some anew when "
                f"it loads them (like {remade[0]}). Load the model, save it with "
                "model.save_pretrained(folder, save_original_format=False), and give that folder; or give live models."
            )
        raise AnchorError(
            f"{target.name}: no weight of this name in {self.label} ({len(self.names)} tensors, e.g. "
            f"{', '.join(list(self.names)[:2])}). Aligned and base checkpoints must be of the model's own "
            "architecture; a weight tied to another (lm_head to the embeddings) is not stored, and cannot be a LoRA target."
        )


class _Tensors(Weights):
    """{name: tensor}, or a live module's."""

    def __init__(self, label: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(label, FileNames.of(tensors))
        self._tensors = tensors

    def _read(self, own_name: str) -> Tensor:
        return self._tensors[own_name]


class _Files(Weights):
    """Files of a directory: {own name: file name}; safetensors are memory-mapped, others unpickled as weights only."""

    def __init__(self, folder: Path, files: Mapping[str, str], model: nn.Module | None) -> None:
        super().__init__(str(folder), FileNames.of(files, model))
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


def open_weights(source: WeightSource, revision: str | None = None, model: nn.Module | None = None) -> Weights:
    """Open a hub id, a directory (single or sharded, safetensors first), a live module or a mapping.

    Args:
        source: Where the weights are.
        revision: On the hub.
        model: What files are to be read for: their names become those that Transformers gives them in it. None for the
            names as they stand; those of a live module or a mapping always do.

    Raises:
        ConfigurationError: If the source cannot be found, holds no weights, or an index is not to be trusted.
    """
    if isinstance(source, nn.Module):
        return _Tensors(type(source).__name__, source.state_dict())
    if isinstance(source, Mapping):
        return _Tensors("the given tensors", source)
    folder = resolve_folder(str(source), revision)
    files = find_index(folder)
    if files is None:
        file = find_file(folder)
        files = dict.fromkeys(_names_in(folder / file), file)
    return _Files(folder, files, model)


def _names_in(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        with open_safetensors(path) as handle:
            return list(handle.keys())
    return list(unpickle(path))


def _tensor_in(path: Path, own_name: str) -> Tensor:
    with open_safetensors(path) as handle:
        tensor: Tensor = readable(path, lambda: handle.get_tensor(own_name))
        return tensor
