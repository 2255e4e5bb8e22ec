"""Anchors from a file protect as they say, or are refused: whoever can write a file can also write its hash."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.models import TARGETS, tiny_pair, with_lora
from kit.references import orthonormal
from safetensors.torch import load_file, safe_open, save_file

from asft_lightning import UpdatePenalty
from asft_lightning.anchors import AnchorSet, Gram, Shrinkage, build_anchors
from asft_lightning.anchors.anchor_set import _sha256
from asft_lightning.errors import AnchorError
from asft_lightning.functional import QuadraticForm


@pytest.fixture(scope="module")
def model():
    return with_lora(tiny_pair(scale=0.1).aligned, target_modules=TARGETS["llama"])


@pytest.fixture(scope="module")
def sound(model):
    pair = tiny_pair(scale=0.1)
    return build_anchors(model, pair.aligned, pair.base, [Gram(), Shrinkage(weight=0.5)], progress=False)


def with_first(anchors, **changes):
    """The same anchors, but for the first module of the first term."""
    term = anchors.terms[0]
    name = next(iter(term.modules))
    modules = {**term.modules, name: replace(term.modules[name], **changes)}
    return replace(anchors, terms=(replace(term, modules=modules), *anchors.terms[1:]))


def with_form(**changes):
    return lambda anchors: with_first(anchors, out=replace(first_form(anchors), **changes))


def first_form(anchors):
    return next(iter(anchors.terms[0].modules.values())).out


def with_weight(weight):
    def change(anchors):
        term = anchors.terms[0]
        return replace(anchors, terms=(replace(term, weight=weight, settings={**term.settings, "weight": weight}),))

    return change


WIDTH = 16
UNSOUND = {
    "no terms": (lambda anchors: replace(anchors, terms=()), "anchors need a module and a term"),
    "weight 0": (with_weight(0.0), "a weight must be a positive number, got 0"),
    "weight below 0": (with_weight(-1.0), "a weight must be a positive number, got -1"),
    "weight Inf": (with_weight(float("inf")), "a weight must be a positive number, got inf"),
    "another weight than its settings": (
        lambda anchors: replace(anchors, terms=(replace(anchors.terms[0], weight=1e-9),)),
        "the weight must be that of its settings, 1.0, got 1e-09",
    ),
    "a module without its anchor": (
        lambda anchors: replace(anchors, terms=(replace(anchors.terms[0], modules={}),)),
        "every module needs its anchor",
    ),
    "scale 0": (lambda anchors: with_first(anchors, scale=0.0), "a scale must be a positive number, got 0"),
    "scale below 0": (lambda anchors: with_first(anchors, scale=-1.0), "a scale must be a positive number, got -1"),
    "scale of next to nothing": (
        lambda anchors: with_first(anchors, scale=1e-60),
        "a scale must be a positive number, got 1e-60",
    ),
    "weight of next to nothing": (with_weight(1e-60), "a weight must be a positive number, got 1e-60"),
    "a form of next to nothing": (with_form(beta=0.0, weights=torch.full((WIDTH,), 1e-30)), "is 0, and would not protect"),
    "scale NaN": (lambda anchors: with_first(anchors, scale=float("nan")), "a scale must be a positive number, got nan"),
    "relative without its form": (lambda anchors: with_first(anchors, relative=True), "a form on the input side"),
    "β below 0": (with_form(beta=-1.0), "β of the out side must be 0 or a positive number, got -1"),
    "a form of 0": (with_form(beta=0.0, weights=torch.zeros(WIDTH)), "is 0, and would not protect"),
    "a full basis of weight 0": (with_form(weights=torch.zeros(WIDTH)), "is 0, and would not protect"),
    "weights below 0": (with_form(weights=-torch.ones(WIDTH)), "weights of the out side must be finite and not below 0"),
    "weights NaN": (with_form(weights=torch.full((WIDTH,), float("nan"))), "weights of the out side must be finite"),
    "a weight less": (with_form(weights=torch.ones(WIDTH - 1)), "one for each of the 16 directions"),
    "directions too long": (
        lambda anchors: with_form(directions=2 * first_form(anchors).directions)(anchors),
        "orthonormal",
    ),
    "directions of 0": (with_form(directions=torch.zeros(WIDTH, WIDTH)), "orthonormal"),
    "directions NaN": (with_form(directions=torch.full((WIDTH, WIDTH), float("nan"))), "orthonormal"),
    "directions of another width": (with_form(directions=torch.eye(WIDTH + 1)[:, :WIDTH]), "must be of 16 rows"),
    "directions in half precision": (with_form(directions=torch.eye(WIDTH).bfloat16()), "orthonormal"),
    "eigenvalues of another number": (lambda anchors: with_first(anchors, eigenvalues=torch.ones(3)), "eigenvalues"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_what_would_not_protect_is_refused(tmp_path, sound, case):
    change, rule = UNSOUND[case]
    whole = with_first(sound, out=QuadraticForm(1.0, orthonormal(WIDTH, WIDTH).float(), torch.ones(WIDTH)), eigenvalues=None)
    path = tmp_path / "anchors.safetensors"
    whole.save(path)
    AnchorSet.load(path)
    change(whole).save(path)
    with pytest.raises(AnchorError, match=rf"{path} cannot be read as anchors \(.*{rule}.*Build them again"):
        AnchorSet.load(path)


def values():
    """What JSON can hold, the right kinds among it."""
    numbers = st.one_of(st.integers(-3, 3), st.floats(width=32))
    plain = st.one_of(st.none(), st.booleans(), numbers, st.sampled_from(["", "out", "Gram"]))
    return st.recursive(
        plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner))
    )


def places(node, path=()):
    """Every path into a JSON value, the value itself included."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def put(node, path, value):
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = put(copy[path[0]], path[1:], value)
    return copy


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_any_header_and_any_tensors_protect_or_are_refused(tmp_path, sound, model, data):
    """A value of the header or a tensor is replaced by one of any kind: an error of ours, or a penalty above 0."""
    path = tmp_path / "anchors.safetensors"
    sound.save(path)
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    tensors, header = load_file(path), json.loads(metadata["anchors"])
    if data.draw(st.booleans()):
        header = put(header, data.draw(st.sampled_from(list(places(header)))), data.draw(values()))
    else:
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = data.draw(st.sampled_from([tuple(tensors[name].shape), (0,), (2, 2), (16, 1)]))
        tensors[name] = torch.full(shape, data.draw(st.floats(width=32)))
    metadata["anchors"] = json.dumps(header)
    save_file(tensors, path, metadata | {"sha256": _sha256(tensors, metadata["anchors"])})
    try:
        anchors = AnchorSet.load(path)
    except AnchorError:
        return
    penalty = UpdatePenalty(model, anchors, resumed=True)
    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for i, factor in enumerate(factors):
            factor.copy_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(i)))
    assert float(penalty()) > 0
    assert str(anchors)
