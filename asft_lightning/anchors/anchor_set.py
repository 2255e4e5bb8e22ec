"""The anchors of a whole model: kept, saved, loaded, and shown."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asft_lightning.anchors.anchor import ModuleAnchor, Spectrum
from asft_lightning.errors import AnchorError
from asft_lightning.files import write_atomically
from asft_lightning.functional import QuadraticForm

_FORMAT = "asft-lightning anchors 1"


@dataclass(frozen=True)
class AnchorTerm:
    """One anchor of a sum, built.

    Args:
        settings: The anchor's class name and arguments, as plain data.
        weight: Its factor in the sum.
        modules: Its anchor for each canonical module name.
    """

    settings: Mapping[str, Any]
    weight: float
    modules: Mapping[str, ModuleAnchor]

    @property
    def label(self) -> str:
        """The anchor's class name."""
        return str(self.settings["class"])


@dataclass(frozen=True)
class AnchorSet:
    """Every anchor of a model; made by :func:`build_anchors`.

    Args:
        shapes: {canonical module name: (d_out, d_in)}.
        terms: The anchors of the sum; each covers every module.
    """

    shapes: Mapping[str, tuple[int, int]]
    terms: tuple[AnchorTerm, ...]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically: never half a file under this name."""
        tensors, header = self._contents()
        write_atomically(Path(path), save(tensors, {"format": _FORMAT, "anchors": header}))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file written by :meth:`save`; nothing in it is executed.

        Raises:
            AnchorError: If it is absent, damaged, or no file of this format.
        """
        try:
            with safe_open(path, framework="pt") as handle:
                metadata = handle.metadata() or {}
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        if metadata.get("format") != _FORMAT:
            raise AnchorError(
                f"{path} must be a file of format {_FORMAT!r}, got {metadata.get('format')!r}. Build it again."
            )
        try:
            header = json.loads(metadata["anchors"])
            terms = tuple(_term_from(i, plain, tensors) for i, plain in enumerate(header["terms"]))
            return cls({name: (int(shape[0]), int(shape[1])) for name, shape in header["shapes"].items()}, terms)
        except (KeyError, ValueError, TypeError) as error:
            raise _unreadable(path, error) from error

    def sha256(self) -> str:
        """Hash of the content, to record what a run was protected with."""
        tensors, header = self._contents()
        digest = hashlib.sha256(header.encode())  # not the file's bytes: their order is the format's own affair
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
        return digest.hexdigest()

    def rows(self) -> Iterator[tuple[str, str, Spectrum]]:
        """(module, anchor, spectrum) for each module and anchor."""
        for name in self.shapes:
            for term in self.terms:
                yield name, term.label, term.modules[name].spectrum

    def __str__(self) -> str:
        """The spectrum of each module as a table of plain text."""
        width = max(len(name) for name in self.shapes)
        lines = [f"{'module':{width}}  anchor     ‖V‖_F   trace C  largest c  kept  error bound"]
        lines += [
            f"{name:{width}}  {label:9}  {s.norm:6.3f}  {s.trace:7.3f}  {s.largest:9.4f}  {s.kept:4d}  {s.error_bound:11.2%}"
            for name, label, s in self.rows()
        ]
        return "\n".join(lines)

    def _contents(self) -> tuple[dict[str, Tensor], str]:
        tensors: dict[str, Tensor] = {}
        terms = []
        for i, term in enumerate(self.terms):
            modules = {}
            for name, anchor in term.modules.items():
                modules[name] = _plain(anchor)
                tensors.update({f"{i}|{name}|{key}": value for key, value in _tensors_of(anchor).items()})
            terms.append({"settings": dict(term.settings), "weight": float(term.weight), "modules": modules})
        return tensors, json.dumps({"shapes": self.shapes, "terms": terms})


def _unreadable(path: str | Path, error: Exception) -> AnchorError:
    return AnchorError(f"{path} cannot be read as anchors ({error}). Build them again.")


def _tensors_of(anchor: ModuleAnchor) -> dict[str, Tensor]:
    tensors = {} if anchor.eigenvalues is None else {"eigenvalues": anchor.eigenvalues.contiguous()}
    for side, form in (("out", anchor.out), ("inp", anchor.inp)):
        if form is not None:
            tensors |= {
                f"{side}.directions": form.directions.contiguous(),
                f"{side}.weights": form.weights.contiguous(),
            }
    return tensors


def _plain(anchor: ModuleAnchor) -> dict[str, Any]:
    betas = {side: form.beta for side, form in (("out", anchor.out), ("inp", anchor.inp)) if form is not None}
    return {"spectrum": asdict(anchor.spectrum), "betas": betas}


def _term_from(index: int, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AnchorTerm:
    modules = {}
    for name, figures in plain["modules"].items():
        prefix = f"{index}|{name}|"
        forms = {
            side: QuadraticForm(beta, tensors[f"{prefix}{side}.directions"], tensors[f"{prefix}{side}.weights"])
            for side, beta in figures["betas"].items()
        }
        eigenvalues = tensors.get(f"{prefix}eigenvalues")
        modules[name] = ModuleAnchor(forms.get("out"), forms.get("inp"), eigenvalues, Spectrum(**figures["spectrum"]))
    return AnchorTerm(plain["settings"], float(plain["weight"]), modules)
