"""The interface of a variant: where the quadratic forms of one matrix come from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.anchors.probe import Probe
from asft_lightning.errors import AnchorError, AsFTError
from asft_lightning.functional import working_dtype
from asft_lightning.weights.matrices import Weights, open_weights
from asft_lightning.weights.targets import Target

_ROWS = 256


class WeightPair:
    """What an anchor may look at: two checkpoints, opened and read one matrix at a time, and the aligned one at work.

    Args:
        aligned: The aligned side, or None where no variant asks for it.
        base: The unaligned side, likewise.
        device: Where to compute; None for where the weights are.
        probe: The aligned model, to be run, or None where no variant asks for it.
        model: The model that is tuned, for the names of its weights in files.
    """

    def __init__(
        self,
        aligned: Weights | None,
        base: Weights | None,
        device: torch.device | str | None = None,
        probe: Probe | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.aligned = aligned
        self.base = base
        self.device = device
        self.probe = probe
        self._model = model
        self._others: dict[str, Weights] = {}

    def other(self, location: str) -> Weights:
        """Further weights for the same model, e.g. an adapter's; opened once.

        Raises:
            ConfigurationError: If they cannot be had.
        """
        if location not in self._others:
            self._others[location] = open_weights(location, model=self._model)
        return self._others[location]

    def direction(self, target: Target) -> Tensor:
        """V = W_aligned − W_base (d_out, d_in), in float64 or, where it is large, float32; the caller may work in it.

        Raises:
            AnchorError: If V = 0, or a side is missing or does not fit.
        """
        if self.aligned is None or self.base is None:
            missing = "aligned" if self.aligned is None else "base"
            raise AnchorError(
                f"{target.name}: an anchor on V = W_aligned − W_base needs both checkpoints, and `{missing}` is not given. "
                "Name it under `pretrained`, or of a trainer pass `base`; or use Shrinkage or Harmful, which do without."
            )
        v = self.aligned.matrix(target)
        v = v.to(self.device or v.device, working_dtype(target.shape), copy=True)  # and no more of the aligned side
        base = self.base.matrix(target)
        for rows, of_base in zip(*(torch.split(w, _ROWS) for w in (v, base)), strict=True):
            rows.sub_(of_base.to(rows))  # no more than V and a few rows at a time
        if not bool(v.any()):
            raise AnchorError(
                f"{target.name}: V = W_aligned − W_base must not be 0, but {self.aligned.label} and {self.base.label} hold "
                "the same matrix there. Did you name one checkpoint twice?"
            )
        return v


@dataclass(frozen=True)
class Anchor(ABC):
    """A variant of the penalty.

    Args:
        weight: What its penalty is multiplied with in a sum of anchors, > 0.
    """

    weight: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    """Which of the checkpoints ``aligned`` and ``base`` it reads, and whether it runs the aligned ``model``."""

    def __post_init__(self) -> None:
        """Refuse a weight that would switch the protection off or turn it round."""
        if not self.weight > 0:
            raise AnchorError(
                f"{type(self).__name__} needs a weight above 0, got {self.weight}. Leave an anchor out to switch it off."
            )

    @abstractmethod
    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """The anchor of one matrix.

        Raises:
            AnchorError: If it cannot be built, naming the module.
        """

    def build_all(self, targets: Sequence[Target], weights: WeightPair) -> Iterator[ModuleAnchor]:
        """The anchors of all matrices in their order; a variant that finds them together overrides this."""
        for target in targets:
            with naming(target):
                built = self.build(target, weights)
            yield built

    def fingerprint(self, targets: Sequence[Target], weights: WeightPair) -> str | None:
        """SHA-256 of what it reads beside the targets' weights in the two checkpoints; None where that is nothing."""
        return None

    def prompt_hashes(self) -> tuple[str, ...]:
        """A hash of each prompt it looks at, for those must not be scored."""
        return ()

    def settings(self) -> dict[str, Any]:
        """Its class name and arguments as plain data, as recorded in files."""
        return {"class": type(self).__name__, **asdict(self)}


@contextmanager
def naming(target: Target) -> Iterator[None]:
    """Turn a ``ValueError`` of the pure functions, which know the rule and not the module, into one that names it.

    Raises:
        AnchorError: In its place.
    """
    try:
        yield
    except AsFTError:
        raise
    except ValueError as error:
        raise AnchorError(f"{target.name}: {error}") from error


def needs_of(anchors: Sequence[Anchor]) -> frozenset[str]:
    """What some of the anchors need."""
    return frozenset().union(*(anchor.needs for anchor in anchors))


def sum_label(anchors: Sequence[Anchor]) -> str:
    """A sum of anchors in a few words, e.g. ``Gram + 0.5 Shrinkage``.

    >>> from asft_lightning.anchors import Gram, Shrinkage
    >>> sum_label([Gram(), Shrinkage(weight=0.5)])
    'Gram + 0.5 Shrinkage'
    """
    return " + ".join(("" if a.weight == 1 else f"{a.weight:g} ") + type(a).__name__ for a in anchors)
