"""The anchors of a whole model: kept, saved, loaded, and shown."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.anchors.report import remarks, spectrum_html, spectrum_table
from asft_lightning.anchors.soundness import require_sound
from asft_lightning.anchors.term import AnchorTerm
from asft_lightning.errors import AnchorError
from asft_lightning.functional import QuadraticForm, Spectrum
from asft_lightning.runs.folder import ANCHORS
from asft_lightning.runtime.files import user_path, write_atomically
from asft_lightning.weights.hashing import content_hash
from asft_lightning.weights.locations import resolve_folder


@dataclass(frozen=True)
class AnchorSet:
    """Every anchor of a model; made by :func:`build_anchors`.

    Args:
        shapes: {canonical module name: (d_out, d_in)}.
        terms: The anchors of the sum; each covers every module.
        sources: {``aligned``, ``base`` or an anchor's class: SHA-256 of the weights that were read}.
    """

    FORMAT: ClassVar[str] = "asft-lightning anchors 6"

    shapes: Mapping[str, tuple[int, int]]
    terms: tuple[AnchorTerm, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically: never half a file under this name."""
        tensors, header = self._contents()
        metadata = {"format": self.FORMAT, "anchors": header, "sha256": _sha256(tensors, header)}
        write_atomically(user_path(path), save(tensors, metadata))

    @classmethod
    def load(cls, location: str | Path, revision: str | None = None) -> Self:
        """Read a file written by :meth:`save`; nothing in it is executed, and what becomes of it later changes nothing.

        Args:
            location: The file, or a directory or hub repository with an ``anchors.safetensors``.
            revision: Revision on the hub.

        Raises:
            AnchorError: If the file is absent, damaged, not of this format, or its anchors would not protect.
            ConfigurationError: If the repository cannot be had.
        """
        path = user_path(location)
        if path.suffix != ".safetensors" and not path.is_file():
            path = resolve_folder(str(location), revision) / ANCHORS
        try:
            with torch.device("cpu"), safe_open(path, framework="pt") as handle:
                metadata = handle.metadata() or {}
                tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        if metadata.get("format") != cls.FORMAT:
            raise AnchorError(
                f"{path} must be a file of format {cls.FORMAT!r}, got {metadata.get('format')!r}. Build it again."
            )
        try:
            if metadata["sha256"] != _sha256(tensors, metadata["anchors"]):
                raise ValueError("its content is not what was written")
            header = json.loads(metadata["anchors"])
            terms = tuple(_term_from(i, plain, tensors) for i, plain in enumerate(header["terms"]))
            shapes = {name: (int(shape[0]), int(shape[1])) for name, shape in header["shapes"].items()}
            require_sound(shapes, terms)
            anchors = cls(shapes, terms, {str(side): str(sha256) for side, sha256 in header["sources"].items()})
            if unused := sorted(tensors.keys() - anchors._contents()[0].keys()):
                raise ValueError(f"{unused[0]} is of no anchor")
            return anchors
        except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, RuntimeError) as error:
            raise _unreadable(path, error) from error

    def sha256(self) -> str:
        """Hash of the content, to record what a run was protected with."""
        return _sha256(*self._contents())

    @property
    def num_bytes(self) -> int:
        """What the anchors take in memory and on disk."""
        return sum(term.num_bytes for term in self.terms)

    def __str__(self) -> str:
        """The spectrum of each module as a table of plain text, and what it means in plain words."""
        return "\n".join([spectrum_table(self.terms), "", *remarks(self.terms, self.shapes)])

    def __repr__(self) -> str:
        """Which anchors, of how many modules, in a line."""
        labels = " + ".join(term.label for term in self.terms)
        return f"AnchorSet({labels} of {len(self.shapes)} modules, {self.num_bytes / 2**20:.2f} MiB)"

    def _repr_html_(self) -> str:
        """The same as ``str``, in a notebook, with the picture of :func:`spectrum_picture` where there is one."""
        return spectrum_html(self.terms, self.shapes)

    def _contents(self) -> tuple[dict[str, Tensor], str]:
        tensors: dict[str, Tensor] = {}
        terms = []
        for i, term in enumerate(self.terms):
            modules = {}
            for name, anchor in term.modules.items():
                modules[name] = _plain(anchor)
                tensors.update({f"{i}|{name}|{key}": value for key, value in _tensors_of(anchor).items()})
            header = {"settings": dict(term.settings), "weight": float(term.weight), "prompts": term.prompts}
            terms.append({**header, "modules": modules})
        return tensors, json.dumps({"shapes": self.shapes, "terms": terms, "sources": dict(self.sources)})


def _sha256(tensors: Mapping[str, Tensor], header: str) -> str:
    # Not of the file's bytes: their order is the format's own affair.
    return hashlib.sha256((header + content_hash(sorted(tensors.items()))).encode()).hexdigest()


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
    figures = {"scale": anchor.scale, "relative": anchor.relative}
    return {"spectrum": asdict(anchor.spectrum), "betas": betas, **figures}


def _term_from(index: int, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AnchorTerm:
    modules = {}
    for name, figures in plain["modules"].items():
        prefix = f"{index}|{name}|"
        forms = {
            side: QuadraticForm(beta, tensors[f"{prefix}{side}.directions"], tensors[f"{prefix}{side}.weights"])
            for side, beta in figures["betas"].items()
        }
        eigenvalues = tensors.get(f"{prefix}eigenvalues")
        spectrum, scale = Spectrum(**figures["spectrum"]), float(figures["scale"])
        modules[name] = ModuleAnchor(
            forms.get("out"), forms.get("inp"), eigenvalues, spectrum, scale, bool(figures["relative"])
        )
    return AnchorTerm(plain["settings"], float(plain["weight"]), modules, tuple(plain["prompts"]))
