"""Activation of both sides: against one prompt at a time in float64, and against what the margins do when weights change."""

from copy import deepcopy

import pytest
import torch
from kit.activations import OneLayer, adapted, margins_of, outputs_gradients_of, probe, prompts, speaking_model, with_noise
from kit.models import TARGETS, factors_of
from kit.references import relative_error

from asft_lightning import Activation, AnchorError, AnchorSet, DriftBudget, UpdatePenalty, build_anchors
from asft_lightning.anchors.margin_moments import MarginMoments
from asft_lightning.chat.batching import PaddedBatch
from asft_lightning.weights.targets import Target, find_lora_factors

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
    assert float(case.penalty(**settings)().detach()) == pytest.approx(expected, rel=1e-4)
    assert float(case.penalty(**settings, batch_size=2)().detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_a_ridge_it_is_the_mean_square_over_all_pairs_of_tokens(tmp_path, kind):
    case, total = Case(tmp_path, kind), 0.0
    for name, update in case.updates().items():
        g, x = case.pooled(name)
        total += float((g @ update @ x.mT).square().mean())
    expected = len(case.names) * case.tokens * total
    assert float(case.penalty(output_ridge=0.0)().detach()) == pytest.approx(expected, rel=1e-4)


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


@pytest.mark.parametrize(("tolerance", "capacity"), [(0.01, 512), (0.3, 512), (0.0, 3)])
@pytest.mark.parametrize("output_ridge", [0.0, 0.1])
def test_what_is_dropped_never_lowers_the_penalty(tmp_path, output_ridge, tolerance, capacity):
    case = Case(tmp_path)
    anchors = case.built(output_ridge=output_ridge, tolerance=tolerance, max_directions=capacity)
    kept = [anchor.out.directions.shape[1] for anchor in anchors.terms[0].modules.values()]
    assert min(kept) < 16
    for seed in range(3):
        torch.manual_seed(seed)
        for factor in find_lora_factors(case.model):
            torch.nn.init.normal_(factor.b)
        found = float(UpdatePenalty(case.model, anchors, resumed=True)().detach())
        assert found >= float(case.dense(case.updates(), output_ridge)) * (1 - 1e-5)


def counted(model, *batches):
    found = MarginMoments(model, [Target("layer", (1, 1))], 8)
    for ids, mask, firsts in batches:
        found.add(PaddedBatch(torch.tensor(ids), torch.tensor(mask)), firsts)
    found.require_complete()
    return found


def test_by_hand():
    """Texts 3|2 1, 2 and 1|0: the last prompt token and those after it say one each, of margins (10, 7, 4), 7 and (4, 1)."""
    batches = ([[3, 2, 1], [2, 0, 0]], [[1, 1, 1], [1, 0, 0]], [0, 0]), ([[1, 0]], [[1, 1]], [0])
    found = counted(OneLayer(), *batches)
    assert found.tokens == 2.0
    assert found.inputs["layer"].principal(0.0).trace == pytest.approx((9 + 4 + 1 + 4 + 1 + 0) / 6)
    gradients = [1 / 30, 1 / 21, 1 / 12, 1 / 7, 1 / 8, 1 / 2]
    assert found.gradients["layer"].principal(0.0).trace == pytest.approx(sum(g**2 for g in gradients) / 6)


def test_a_margin_below_one_counts_in_nats():
    """With bias −2.9 the margin of token 1 is 0.1: its gradient counts as it is, not ten times."""
    model = OneLayer()
    model.layer.bias.data.fill_(-2.9)
    found = counted(model, ([[1]], [[1]], [0]))
    assert found.gradients["layer"].principal(0.0).trace == pytest.approx(1.0)


def test_an_answer_that_ends_at_once_has_the_margin_of_its_end(tmp_path):
    plain = speaking_model()
    plain.lm_head.weight.data[2] = 2 * plain.model.norm.weight.data
    case = Case(tmp_path, plain=plain)
    lengths = {len(margins_of(plain, ids)[1]) for ids in case.texts}
    assert 1 in lengths and case.tokens < sum(map(len, case.texts)) / len(case.texts) + 3
    assert float(case.penalty()().detach()) == pytest.approx(float(case.dense(case.updates())), rel=1e-4)


def test_answers_of_the_prompts_are_not_looked_at_and_the_model_is_left_as_it_was(tmp_path):
    case = Case(tmp_path)
    expected = case.built().sha256()
    case.probe = probe(case.model)  # its adapter is off meanwhile
    case.model.train()
    flags, state = [p.requires_grad for p in case.model.parameters()], torch.get_rng_state()
    assert case.built().sha256() == expected
    assert [p.requires_grad for p in case.model.parameters()] == flags and all(m.training for m in case.model.modules())
    assert all(p.grad is None for p in case.model.parameters()) and torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.model.modules())


def test_it_is_read_back_exactly_and_shown(tmp_path):
    case = Case(tmp_path)
    expected = case.built(output_ridge=0.2, weight=3.0)
    expected.save(tmp_path / "anchors.safetensors")
    found = AnchorSet.load(tmp_path / "anchors.safetensors")
    assert found.sha256() == expected.sha256() and found.terms[0].relative
    assert (found.terms[0].settings["sides"], found.terms[0].settings["output_ridge"]) == ("both", 0.2)
    values = [float(UpdatePenalty(case.model, each, resumed=True)().detach()) for each in (found, expected)]
    assert values[0] == values[1] > 0
    assert "directions of a layer's outputs hold what answers depend on" in str(found)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_drift_budget_holds_it(tmp_path, kind):
    """It ends at the limit, and no nearer update within is found: near by the norm of the output side, B as it is."""
    case = Case(tmp_path, kind)
    limit = float(case.penalty()().detach()) ** 0.5 / 3
    before, anchors = case.updates(), case.built()
    DriftBudget(case.model, anchors, limit, resumed=True).hold()
    held = case.updates()
    assert float(case.dense(held)) ** 0.5 == pytest.approx(limit, rel=1e-4)

    def distance(updates):
        forms = {name: anchors.terms[0].modules[name].out.dense().double() for name in updates}
        differences = {name: update - before[name] for name, update in updates.items()}
        return float(sum((forms[name] @ d * d).sum() for name, d in differences.items()))

    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        other = {}
        for name, (_, b) in factors_of(case.model).items():
            step = b.double() @ torch.randn(b.shape[1], held[name].shape[1], generator=generator, dtype=torch.float64)
            other[name] = held[name] + 0.01 * held[name].norm() / step.norm() * step
        share = min(1.0, limit / float(case.dense(other)) ** 0.5)
        assert distance({name: share * update for name, update in other.items()}) >= distance(held)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sides": "output"}, r"sides must be one of input, both .*got 'output' and 0\.1"),
        ({"sides": "both", "output_ridge": -0.1}, r"output_ridge from 0 to 1, got 'both' and -0\.1"),
        ({"sides": "both", "output_ridge": 1.5}, r"output_ridge from 0 to 1, got 'both' and 1\.5"),
        ({"sides": "both", "output_ridge": float("nan")}, r"output_ridge from 0 to 1, got 'both' and nan"),
        ({"sides": "both", "tokens": "last"}, r"both counts all tokens.*got tokens 'last'\. Leave tokens at all"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(AnchorError, match=message):
        Activation(**settings)


def test_a_layer_that_no_answer_depends_on_is_named(tmp_path):
    plain = speaking_model()
    plain.model.layers[1].self_attn.o_proj.weight.data.zero_()
    case = Case(tmp_path, plain=plain)
    with pytest.raises(AnchorError, match=r"layers\.1\.self_attn\.[qv]_proj: the first answer tokens must depend on what"):
        case.built()


def test_what_is_not_finite_on_the_way_back_is_named(tmp_path):
    case = Case(tmp_path)
    case.plain.model.norm.weight.data[3] = float("nan")
    with pytest.raises(AnchorError, match=r"layers\.1\.mlp\.down_proj: .*must be finite, and its gradient holds NaN or Inf"):
        case.built()


class Beside(torch.nn.Module):
    """Runs its layer, and makes nothing of what it puts out."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, hidden):
        self.inside(hidden)
        return hidden


def test_a_layer_whose_outputs_lead_nowhere_is_named(tmp_path):
    model = speaking_model()
    model.model.layers[1].mlp = Beside(model.model.layers[1].mlp)
    target = Target("model.layers.1.mlp.inside.up_proj", (24, 16))
    with pytest.raises(AnchorError, match=r"layers\.1\.mlp\.inside\.up_proj: .*and 0 on the way back\. Leave it out of"):
        probe(model).margin_moments(prompts(tmp_path).load(), [target], 8, 2)
