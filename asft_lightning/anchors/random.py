"""The control: directions that have nothing to do with alignment."""

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from asft_lightning.anchors.anchor import Anchor, WeightPair
from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.functional import gram_map
from asft_lightning.weights.targets import Target


@dataclass(frozen=True)
class Random(Anchor):
    """``Gram``'s eigenvalues on random orthonormal directions: what ``Gram`` does better than this one, its directions do.

    Args:
        weight: Factor in a sum of anchors.
        tolerance: As ``Gram``'s, whose bound holds here too, for it depends on the eigenvalues alone.
        seed: Which directions, together with the module's name; the same on every machine.
    """

    tolerance: float = 0.01
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"aligned", "base"})

    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """Gram's form, turned; the energy in its spectrum is V's along the directions as they are now."""
        v = weights.direction(target)
        energy = v.double().square().sum()
        alignment_map = gram_map(v.clone(), self.tolerance)
        turned = self._directions(target, len(alignment_map.eigenvalues)).to(v)
        share = float((turned.mT @ v).double().square().sum() / energy)
        form = replace(alignment_map.form, directions=turned.float())
        return ModuleAnchor.of_map(alignment_map._replace(form=form, spectrum=replace(alignment_map.spectrum, energy=share)))

    def _directions(self, target: Target, k: int) -> Tensor:
        """(d_out, k), orthonormal, drawn on the CPU in float64: a QR of Gaussian numbers knows no preferred direction."""
        digest = hashlib.sha256(f"{self.seed} {target.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
        drawn: Tensor = torch.linalg.qr(torch.randn(target.shape[0], k, dtype=torch.float64, generator=generator)).Q
        return drawn
