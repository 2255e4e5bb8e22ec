"""Activation of both sides: against one prompt at a time in float64, and against what the margins do when weights change."""

from copy import deepcopy

import pytest
import torch
from kit.activations import adapted, margins_of, outputs_gradients_of, probe, prompts, speaking_model, with_noise
from kit.models import TARGETS, factors_of
from kit.references import relative_error

from asft_lightning import Activation, UpdatePenalty, build_anchors
from asft_lightning.weights.targets import find_lora_factors

SCALING = 2.0  # α 8 of r 4


class Case:
    """A plain model, an adapter on a copy of it, prompts, and each layer's gradients and inputs, kept whole."""

    def __init__(self, folder, kind="llama", plain=None):
        self.kind, self.plain = kind, speaking_model(kind) if plain is None else plain
        self.model = adapted(deepcopy(self.plain), kind)
        self.source, self.probe = prompts(folder), probe(self.plain)
        self.names = list(factors_of(self.model))
        self.texts = self.probe.prompt_ids(self.source.load())
        self.seen = outputs_gradients_of(self.plain, self.texts, self.names)
        self.tokens = sum(len(g) for g, _ in self.seen[self.names[0]]) / len(self.texts)

    def built(self, **settings):
        anchor = Activation(prompts=self.source, sides="both", **{"tolerance": 0.0, **settings})
        return build_anchors(self.model, self.plain, anchors=[anchor], probe=self.probe, progress=False)

    def penalty(self, **settings):
        return UpdatePenalty(self.model, self.built(**settings), resumed=True)

    def pooled(self, name):
        """(g, x) of all tokens."""
        return tuple(torch.cat(side) for side in zip(*self.seen[name], strict=True))

    def out_form(self, name, ridge):
        g, _ = self.pooled(name)
        s = g.mT @ g / len(g)
        return (1 - ridge) * s + ridge * s.trace() / len(s) * torch.eye(len(s), dtype=s.dtype)

    def dense(self, updates, output_ridge=0.1, ridge=0.0):
        """L·T·Σ tr(M_out ΔW M_in ΔWᵀ) of {layer: ΔW (d_out, d_in)}."""
        parts = []
        for name, update in updates.items():
            out, inp = self.out_form(name, output_ridge), with_noise(self.pooled(name)[1], ridge)
            parts.append((out @ update @ inp * update).sum())
        return len(parts) * self.tokens * torch.stack(parts).sum()

    def updates(self):
        return {name: SCALING * b.double() @ a.double() for name, (a, b) in factors_of(self.model).items()}


@pytest.mark.parametrize("settings", [{}, {"output_ridge": 0.0}, {"output_ridge": 1.0}, {"ridge": 0.2}], ids=str)
@pytest.mark.parametrize("kind", TARGETS)
def test_penalty_is_that_of_the_dense_forms(tmp_path, kind, settings):
    case = Case(tmp_path, kind)
    expected = float(case.dense(case.updates(), **settings))
    assert float(case.penalty(**settings)()) == pytest.approx(expected, rel=1e-4)
    assert float(case.penalty(**settings, batch_size=2)()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_a_ridge_it_is_the_mean_square_over_all_pairs_of_tokens(tmp_path, kind):
    case, total = Case(tmp_path, kind), 0.0
    for name, update in case.updates().items():
        g, x = case.pooled(name)
        total += float((g @ update @ x.mT).square().mean())
    expected = len(case.names) * case.tokens * total
    assert float(case.penalty(output_ridge=0.0)()) == pytest.approx(expected, rel=1e-4)


def test_gradient_is_that_of_the_dense_forms(tmp_path):
    case = Case(tmp_path)
    factors = find_lora_factors(case.model)
    found = torch.autograd.grad(case.penalty()(), [p for f in factors for p in (f.a, f.b)])
    leaves = [(f.a.detach().double().requires_grad_(), f.b.detach().double().requires_grad_()) for f in factors]
    updates = {f.target.name: SCALING * b @ a for f, (a, b) in zip(factors, leaves, strict=True)}
    expected = torch.autograd.grad(case.dense(updates), [p for pair in leaves for p in pair])
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-4


@torch.no_grad()
def change_of_shares(case, updates, size):
    """The change of each prompt's μ (n,) from weights W − size·ΔW to W + size·ΔW, per 2·size."""
    plain = deepcopy(case.plain).double()
    models = {sign: deepcopy(plain) for sign in (-1, 1)}
    for sign, model in models.items():
        for name, update in updates.items():
            model.get_submodule(name).weight += sign * size * (update.mT if case.kind == "gpt2" else update)
    changes = []
    for ids in case.texts:
        margins, less, more = (margins_of(model, ids)[1] for model in (plain, models[-1], models[1]))
        changes.append(((more - less) / margins.abs().clamp_min(1.0)).mean() / (2 * size))
    return torch.stack(changes)


def to_first_order(case, updates):
    """Σ_l Σ_t gᵀ ΔW x of each prompt (n,)."""
    of_layers = [torch.stack([((g @ update) * x).sum() for g, x in case.seen[name]]) for name, update in updates.items()]
    return torch.stack(of_layers).sum(dim=0)


def updates_of(case, seed):
    """Random ones; and the one of one prompt alone, along which its own μ changes most."""
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        shapes = {name: (case.pooled(name)[0].shape[1], case.pooled(name)[1].shape[1]) for name in case.names}
        return {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: case.seen[name][0][0].mT @ case.seen[name][0][1] for name in case.names}


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_bounds_the_change_of_the_margins(tmp_path, kind, seed):
    """(E|Δμ|)² ≤ T·max_l tr(S_l M_l⁻¹)·penalty of weights that changed a little, whatever the change."""
    case = Case(tmp_path, kind)
    updates = updates_of(case, seed)
    changes = change_of_shares(case, updates, 1e-3 / max(float(update.norm()) for update in updates.values()))
    assert relative_error(changes, to_first_order(case, updates)) < 5e-3  # llama norms are float32
    for ridge in (0.01, 0.1, 1.0):
        dimensions = [torch.linalg.solve(case.out_form(n, ridge), case.out_form(n, 0.0)).trace() for n in case.names]
        bound = case.tokens * float(max(dimensions)) * float(case.dense(updates, ridge))
        assert float(changes.abs().mean()) ** 2 <= bound
        if seed is None:  # and not by much where all pulls one way
            assert bound < 1e3 * float(changes.abs().mean()) ** 2
