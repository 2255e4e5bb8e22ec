import pytest
import torch
from kit.models import (
    EXACT,
    TARGETS,
    TwoSided,
    bound,
    factors_of,
    reference_penalty,
    tiny_model,
    tiny_pair,
    train_factors,
    with_lora,
)
from kit.references import dense_gram, dense_penalty, dense_projector, orthonormal, relative_error

from asft_lightning import UpdatePenalty
from asft_lightning.anchors import Gram, Harmful, ModuleAnchor, Shrinkage, Subspace, build_anchors
from asft_lightning.functional import QuadraticForm


def no_map(v):
    return torch.zeros(v.shape[0], v.shape[0], dtype=torch.float64)


def dense_gradients(model, pair, dense_map):
    """{parameter name: gradient of the dense float64 penalty}."""
    found = {}
    for name, (a, b) in factors_of(model).items():
        a, b = a.double().requires_grad_(), b.double().requires_grad_()
        gradients = torch.autograd.grad(dense_penalty(a, b, dense_map(pair.direction(name))), (a, b))
        names = (f"base_model.model.{name}.lora_{side}.default.weight" for side in "AB")
        found.update(zip(names, gradients, strict=True))
    return found


VARIANTS = {
    "gram": (EXACT, dense_gram),
    "subspace k": (Subspace(num_directions=2), lambda v: dense_projector(v, 2)),
    "shrinkage": (Shrinkage(), no_map),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradients_are_the_dense_ones(kind, variant):
    anchor, dense_map = VARIANTS[variant]
    pair = tiny_pair(kind)
    model = with_lora(pair.aligned, target_modules=TARGETS[kind], lora_dropout=0.5)
    value = bound(model, pair, [anchor])()
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference_penalty(model, pair, dense_map), rel=1e-5)
    expected = dense_gradients(model, pair, dense_map)
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    assert max(relative_error(found[name], expected[name]) for name in expected) < 1e-5


def test_at_the_start_the_penalty_and_its_gradients_are_zero():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    penalty = UpdatePenalty(model, build_anchors(model, pair.aligned, pair.base, [Gram()], progress=False))()
    penalty.backward()
    assert penalty == 0
    assert not any(p.grad.any() for p in model.parameters() if p.requires_grad)


def test_the_harmful_part_alone_is_penalised(tmp_path):
    pair = tiny_pair()
    harmful = with_lora(pair.aligned)
    train_factors(harmful, seed=5)
    harmful.save_pretrained(tmp_path)
    model = with_lora(pair.aligned)
    value = bound(model, pair, [Harmful(adapter=str(tmp_path), num_directions=2)])()
    expected = 0.0
    for name, (a, b) in factors_of(model).items():
        harmful_a, harmful_b = factors_of(harmful)[name]
        projector = dense_projector(harmful_b.double() @ harmful_a.double(), 2)
        expected += float((projector @ b.double() @ a.double()).square().sum())
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_a_form_on_each_side():
    pair = tiny_pair()
    model = with_lora(pair.aligned, target_modules=TARGETS["llama"])
    value, expected = bound(model, pair, [TwoSided()])(), 0.0
    for name, (a, b) in factors_of(model).items():
        u = orthonormal(a.shape[1], 3)
        inp = torch.eye(a.shape[1], dtype=torch.float64) + u @ torch.diag(torch.tensor([8.0, 3.0, -1.0]).double()) @ u.T
        expected += float(dense_penalty(a, b, dense_gram(pair.direction(name)), inp))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_a_sum_is_weighted():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    value = bound(
        model, pair, [Gram(tolerance=0, weight=0.3), Subspace(num_directions=3, weight=2), Shrinkage(weight=0.1)]
    )()
    terms = {0.3: dense_gram, 2.0: lambda v: dense_projector(v, 3), 0.1: no_map}
    expected = sum(weight * reference_penalty(model, pair, dense_map) for weight, dense_map in terms.items())
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_the_true_update_is_the_product_times_its_scaling():
    pair = tiny_pair()
    settings = {"lora_alpha": 8, "alpha_pattern": {"v_proj": 2}, "target_modules": ["q_proj", "v_proj"]}
    model = with_lora(pair.aligned, **settings)
    value, expected = bound(model, pair, [EXACT], scale_update=True)(), 0.0
    for name, (a, b) in factors_of(model).items():
        scaling = {"q_proj": 8 / 4, "v_proj": 2 / 4}[name.rpartition(".")[2]]
        expected += float(dense_penalty(a, scaling * b, dense_gram(pair.direction(name))))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_only_the_sum_over_layers_is_taken():
    # Shrinkage on two layers, by hand: q with A = B = 1 (r 1, 16 × 16), v with A = 1, B = 2 (8 × 16).
    model = with_lora(tiny_model(layers=1), r=1)
    penalty = UpdatePenalty(model, build_anchors(model, anchors=[Shrinkage()], progress=False))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.fill_(2.0 if "v_proj.lora_B" in name else 1.0)
    assert penalty().item() == 16 * 16 + 4 * 8 * 16


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_compiled_it_is_the_same(kind):
    pair = tiny_pair(kind)
    model = with_lora(pair.aligned, target_modules=TARGETS[kind])
    penalty = bound(model, pair, [EXACT])
    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    value = compiled()
    value.backward()
    assert value.item() == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)
    expected = dense_gradients(model, pair, dense_gram)
    assert all(relative_error(p.grad, expected[name]) < 1e-5 for name, p in model.named_parameters() if p.requires_grad)


def test_layers_of_one_shape_with_few_and_many_directions_do_not_pay_for_one_another():
    model = with_lora(tiny_model(layers=4), target_modules=["q_proj"])
    widths = iter([1, 2, 40, 40])

    class Varied(Shrinkage):
        def build(self, target, weights):
            k = next(widths)
            return ModuleAnchor(out=QuadraticForm(1.0, torch.zeros(target.shape[0], k), torch.zeros(k)))

    penalty = UpdatePenalty(model, build_anchors(model, anchors=[Varied()], progress=False))
    assert sorted(tuple(group.terms[0].out_directions.shape) for group in penalty.groups) == [(2, 16, 2), (2, 16, 40)]


def test_anchors_on_the_host_stay_there():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    resident, on_host = (bound(model, pair, [Gram()], resumed=True, anchors_on_host=host) for host in (False, True))
    assert torch.equal(on_host(), resident())
    assert {group.terms[0].out_directions.device.type for group in on_host.to("meta").groups} == {"cpu"}
    assert {group.terms[0].out_directions.device.type for group in resident.to("meta").groups} == {"meta"}
    assert {group.terms[0].out_directions.dtype for group in on_host.bfloat16().groups} == {torch.float32}
