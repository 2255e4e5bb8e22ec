"""What a tensor of a file is called once Transformers has loaded it: many families' files have other names than modules."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from asft_lightning.weights.targets import canonical_name

_FACTORS = ".lora_"


@dataclass(frozen=True)
class FileNames:
    """Which tensor of a file is which of a model.

    Args:
        own: {canonical name in the model: name in the file}.
        remade: Those of ``own`` that are no weight of the model as they are: Transformers merges, parts or permutes them.
    """

    own: dict[str, str]
    remade: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str], model: nn.Module | None = None) -> "FileNames":
        """The names as they stand; or, where a Transformers model is given, as Transformers loads them into it.

        Args:
            names: Those in the file, of a checkpoint or of an adapter in PEFT's format.
            model: The model that they are for, or one that holds it; only the names of its weights are looked at.
        """
        plain = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None) if model else None
        if plain is None:
            return cls({canonical_name(name): name for name in names})
        loader = _Loader(plain)
        own: dict[str, str] = {}
        remade: set[str] = set()
        for name in sorted(names, key=dot_natural_key):  # the order that Transformers goes in, for some renamings know it
            loaded, is_remade = loader.name(canonical_name(name))
            own[loaded] = name
            if is_remade:
                remade.add(loaded)
        return cls(own, frozenset(remade))


class _Loader:
    """Transformers' own renaming while it loads (``convert_and_load_state_dict_in_model``), without the loading."""

    def __init__(self, model: PreTrainedModel) -> None:
        transforms = get_model_conversion_mapping(model)
        self._renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        self._converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        self._prefix = model.base_model_prefix
        # Not by its state_dict, for which FSDP2 parts what is whole: on one rank alone, the others would wait for it.
        tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self._known = {canonical_name(name): True for name, _ in tensors}

    def name(self, name: str) -> tuple[str, bool]:
        """A tensor's name in the model, and whether it is made into others there."""
        module, is_factor, factor = name.partition(_FACTORS)
        if is_factor:  # an adapter's factors go with the weight that they change
            weight, is_remade = self.name(f"{module}.weight")
            return weight.removesuffix(".weight") + _FACTORS + factor, is_remade
        renamed, converter = rename_source_key(name, self._renamings, self._converters, self._prefix, self._known)
        if renamed not in self._known and name in self._known:
            return name, False
        return (name, True) if converter is not None else (renamed, False)
