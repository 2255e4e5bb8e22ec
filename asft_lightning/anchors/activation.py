"""Beyond the paper: keep what unsafe prompts make of the model's layers, by what they put into them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_args

import torch

from asft_lightning.anchors.anchor import Anchor, WeightPair, naming
from asft_lightning.anchors.module_anchor import ModuleAnchor
from asft_lightning.anchors.probe import Probe, Tokens
from asft_lightning.chat.rows import Row, prompt_hash
from asft_lightning.data import Source
from asft_lightning.data.by_turns import first_rows
from asft_lightning.errors import AnchorError
from asft_lightning.functional import Principal, margin_change, relative_change
from asft_lightning.weights.hashing import content_hash, text_hash
from asft_lightning.weights.matrices import Weights
from asft_lightning.weights.targets import Target

Sides = Literal["input", "both"]
"""Which sides of an update are looked at: what is put into the layers, or also what the answers depend on."""


@dataclass(frozen=True)
class Activation(Anchor):
    """How far the update takes the model on unsafe prompts, beside what its answers hold out: c·L·Σ_l ε_l² of L layers.

    ε_l² = E‖ΔW x‖² / E‖W x‖² is the relative change of what layer l puts out, squared: x are its inputs in the aligned model
    when it reads the prompts, ΔW = (α/r)·B·A is the true update, whatever ``scale_update`` says. √(L·Σ ε_l²) is at least
    Σ ε_l (Cauchy-Schwarz), what the changes come to where all layers push one way, as training makes them do. c is the
    :class:`Sensitivity` of how the model begins its answers to the layers, in which models differ (docs/activation.md: by
    a factor of 100). So the penalty has no unit, and does not know rank, α or depth.

    With G = E[x xᵀ], ε² = ⟨BᵀB, A G Aᵀ⟩·(α/r)² / tr(W G Wᵀ), a form on the input side. G is kept along its leading
    directions. Along no other is there more than b = ``error_bound``·tr G, and what is left out counts as b in ΔW x and
    as nothing in W x: ε² is never below the exact one, and at most (E‖ΔW x‖² + b‖ΔW‖²) / (E‖W x‖² − b‖W‖²).

    That counts all of what a layer puts out alike. With ``sides="both"`` only what the answers depend on counts: the penalty
    is L·T·Σ_l ⟨Bᵀ M_l B, A G_l Aᵀ⟩·(α/r)² with M = (1 − ρ)·S + ρ·tr(S)/d_out·I and S = E[g gᵀ], g = ∂μ/∂y the gradient, with
    respect to the layer's output, of the share μ of the margins of the first 4 tokens of the model's own answers
    (:class:`MarginMoments`; T tokens are read in the mean, prompt and begun answer). To first order μ changes by Σ_l Σ_t
    gᵀ ΔW x. Without ρ the penalty is L·T·Σ_l of (gᵀ ΔW x)² in the mean over all pairs of a token's g and a token's x, which
    stands for its mean over tokens. So it estimates the mean square of μ's change where tokens' parts are independent; and
    whatever they are, it bounds it: (E|Δμ|)² ≤ T·max_l tr(S_l M_l⁻¹) times the penalty (docs/activation.md).

    Args:
        weight: Factor in a sum of anchors.
        prompts: Unsafe prompts; answers are not needed nor looked at. Never those that the harmful score is measured on.
        num_prompts: How many of them, from the first.
        tokens: Whose inputs count: ``all`` tokens' of the prompt with its template, the ``last`` one's, or (``answer``)
            that and those of the first 8 tokens that the aligned model answers.
        ridge: Also count white noise in the inputs, of this share of their energy: 0 leaves directions free that no
            prompt uses, and a large one is shrinkage.
        tolerance: Share of the inputs' energy that may lie outside of the directions kept; of the gradients' likewise.
        max_directions: Most directions kept of a layer, on a side.
        batch_size: Prompts a batch when the model is run.
        sides: ``input``, or ``both``: then ``tokens`` must be ``all``, and those of the begun answers are among them.
        output_ridge: ρ of ``both``, from 0 to 1: 0 leaves outputs free that no margin depends on, and 1 is ``input`` in
            another unit.
    """

    prompts: Source | None = None
    num_prompts: int = 64
    tokens: Tokens = "all"
    ridge: float = 0.0
    tolerance: float = 0.01
    max_directions: int = 512
    batch_size: int = 8
    sides: Sides = "input"
    output_ridge: float = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({"aligned", "model"})

    def __post_init__(self) -> None:
        """Refuse settings that cannot be before anything is read."""
        super().__post_init__()
        fits = min(self.num_prompts, self.max_directions, self.batch_size) >= 1 and 0 <= self.ridge < float("inf")
        if not (fits and 0 <= self.tolerance < 1):
            raise AnchorError(
                "Activation needs num_prompts, max_directions and batch_size of 1 or more, ridge ≥ 0 and 0 ≤ tolerance < 1, "
                f"got {self.num_prompts}, {self.max_directions}, {self.batch_size}, {self.ridge} and {self.tolerance}."
            )
        if self.tokens not in get_args(Tokens):
            raise AnchorError(f"Activation's tokens must be one of {', '.join(get_args(Tokens))}, got {self.tokens!r}.")
        if self.sides not in get_args(Sides) or not 0 <= self.output_ridge <= 1:
            raise AnchorError(
                f"Activation's sides must be one of {', '.join(get_args(Sides))} and its output_ridge from 0 to 1, got "
                f"{self.sides!r} and {self.output_ridge}."
            )
        if self.sides == "both" and self.tokens != "all":
            raise AnchorError(
                f"Activation with sides both counts all tokens, for the margins depend on all, got tokens {self.tokens!r}. "
                "Leave tokens at all."
            )

    @cached_property
    def rows(self) -> list[Row]:
        """The prompts.

        Raises:
            AnchorError: If none are given.
            DataError: If they cannot be read.
        """
        if self.prompts is None:
            raise AnchorError(
                "Activation needs `prompts`, a source of unsafe prompts, e.g. {path: catalogue:unsafe-prompts}."
            )
        return first_rows(self.prompts, self.num_prompts)

    def build(self, target: Target, weights: WeightPair) -> ModuleAnchor:
        """The anchor of one matrix alone; that of many takes as long, see :meth:`build_all`."""
        return next(self.build_all([target], weights))

    def build_all(self, targets: Sequence[Target], weights: WeightPair) -> Iterator[ModuleAnchor]:
        """One pass over the prompts, there and back, for all matrices."""
        return (self._input_side if self.sides == "input" else self._both_sides)(targets, weights)

    def _input_side(self, targets: Sequence[Target], weights: WeightPair) -> Iterator[ModuleAnchor]:
        probe = _probe(weights).loaded()
        found = probe.activations(self.rows, targets, self.tokens, self.max_directions, self.batch_size)
        share, moments = len(targets) * found.sensitivity.value(), found.moments
        del probe, found  # and the model, before the weights are read again
        for target in targets:
            moment = moments.pop(target.name).principal(self.tolerance)
            yield self._anchor(target, moment, weights, share)

    def _both_sides(self, targets: Sequence[Target], weights: WeightPair) -> Iterator[ModuleAnchor]:
        probe = _probe(weights).loaded()
        found = probe.margin_moments(self.rows, targets, self.max_directions, self.batch_size)
        del probe
        share = len(targets) * found.tokens
        for target in targets:
            gradients, inputs = (side.pop(target.name).principal(self.tolerance) for side in (found.gradients, found.inputs))
            with naming(target):
                change = margin_change(gradients, inputs, self.output_ridge, self.ridge)
            scale = change.scale * share
            yield ModuleAnchor(change.out.cpu(), change.inp.cpu(), spectrum=change.spectrum, scale=scale, relative=True)

    def prompt_hashes(self) -> tuple[str, ...]:
        """A hash of each prompt, to tell them among others without keeping them."""
        return tuple(prompt_hash(row.prompt) for row in self.rows)

    def fingerprint(self, targets: Sequence[Target], weights: WeightPair) -> str:
        """Of the prompts as the model reads them, and of all of its weights and how they are loaded."""
        probe = _probe(weights)
        ids = ((str(i), torch.tensor(ids)) for i, ids in enumerate(probe.prompt_ids(self.rows)))
        return text_hash(content_hash(ids), _aligned(weights).whole_fingerprint(), probe.loading)

    def _anchor(self, target: Target, moment: Principal, weights: WeightPair, share: float) -> ModuleAnchor:
        weight = _aligned(weights).matrix(target).to(moment.directions.device)
        with naming(target):
            change = relative_change(weight, moment, self.ridge)
        return ModuleAnchor(inp=change.form.cpu(), spectrum=change.spectrum, scale=change.scale * share, relative=True)


def _probe(weights: WeightPair) -> Probe:
    if weights.probe is None:
        raise AnchorError(
            "Activation runs the aligned model, and there is none to run. Pass probe=Probe(model, tokenizer, template)."
        )
    return weights.probe


def _aligned(weights: WeightPair) -> Weights:
    if weights.aligned is None:
        raise AnchorError("Activation measures against the aligned model's weights, and `aligned` is not given. Name it.")
    return weights.aligned
