"""AnchorTerm: one anchor of a sum, built for every module."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asft_lightning.anchors.module_anchor import ModuleAnchor


@dataclass(frozen=True)
class AnchorTerm:
    """One anchor of a sum, built.

    Args:
        settings: The anchor's class name and arguments, as plain data.
        weight: Its factor in the sum.
        modules: Its anchor for each canonical module name.
        prompts: A hash of each prompt it looked at (:func:`prompt_hash`).
    """

    settings: Mapping[str, Any]
    weight: float
    modules: Mapping[str, ModuleAnchor]
    prompts: tuple[str, ...] = ()

    @property
    def relative(self) -> bool:
        """Whether it measures a change relative to what the aligned model does."""
        return all(anchor.relative for anchor in self.modules.values())

    @property
    def label(self) -> str:
        """The anchor's class name."""
        return str(self.settings["class"])

    @property
    def num_bytes(self) -> int:
        """What it takes in memory and on disk."""
        return sum(anchor.num_bytes for anchor in self.modules.values())


def by_module(terms: Sequence[AnchorTerm]) -> Iterator[tuple[str, str, ModuleAnchor]]:
    """(module, the anchor's class, its anchor of the module) for each module and term."""
    for name in terms[0].modules if terms else ():
        for term in terms:
            yield name, term.label, term.modules[name]


def term_labels(terms: Sequence[AnchorTerm]) -> list[str]:
    """A name of its own for each term: its anchor's class, with a number where one comes twice."""
    has_twins = len({term.label for term in terms}) < len(terms)
    return [f"{term.label} {i}" if has_twins else term.label for i, term in enumerate(terms)]
