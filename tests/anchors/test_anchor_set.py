import json
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from kit.activations import adapted, probe, prompts, speaking_model
from kit.models import TARGETS, tiny_pair, with_lora
from kit.references import orthonormal
from safetensors import safe_open
from safetensors.torch import save_file

from asft_lightning import UpdatePenalty
from asft_lightning.anchors import Activation, Anchor, AnchorSet, Gram, ModuleAnchor, Shrinkage, Subspace, build_anchors
from asft_lightning.errors import AnchorError
from asft_lightning.functional import QuadraticForm


@dataclass(frozen=True)
class Relative(Anchor):
    """A variant that measures a relative change, at another scale in each module."""

    def build(self, target, weights):
        form = QuadraticForm(0.0, orthonormal(target.shape[1], 2).float(), torch.tensor([5.0, 3.0]))
        return ModuleAnchor(inp=form, scale=0.1 / len(target.name), relative=True)

    def prompt_hashes(self):
        return ("aa", "bb")


@dataclass(frozen=True)
class InputSide(Anchor):
    """A variant of another project: a form on the input side."""

    def build(self, target, weights):
        return ModuleAnchor(inp=QuadraticForm(1.0, orthonormal(target.shape[1], 3).float(), torch.tensor([5.0, 3.0, 2.0])))


ANCHORS = {
    "Gram": [Gram()],
    "nothing kept": [Gram(tolerance=1e6)],
    "Subspace": [Subspace(explained_variance=0.5)],
    "Shrinkage": [Shrinkage()],
    "input side": [InputSide()],
    "relative": [Relative()],
    "relative in a sum": [Gram(), Relative(weight=3)],
    "sum": [Gram(), Shrinkage(weight=0.3), InputSide(weight=2)],
}


def built(anchors, scale: float = 0.1) -> AnchorSet:
    pair = tiny_pair(scale=scale)
    model = with_lora(pair.aligned, target_modules=TARGETS["llama"])
    return build_anchors(model, pair.aligned, pair.base, anchors, progress=False)


def parts(anchor: ModuleAnchor):
    """Its tensors by what they are."""
    for side in ("out", "inp"):
        if (form := getattr(anchor, side)) is not None:
            yield from ((f"{side} U", form.directions), (f"{side} w", form.weights), (f"{side} β", torch.tensor(form.beta)))
    if anchor.eigenvalues is not None:
        yield "c", anchor.eigenvalues


@pytest.mark.parametrize("case", ANCHORS)
def test_a_saved_set_is_read_back_exactly(tmp_path, case):
    expected = built(ANCHORS[case])
    expected.save(tmp_path / "new folder" / "anchors.safetensors")
    found = AnchorSet.load(tmp_path / "new folder" / "anchors.safetensors")
    assert dict(found.shapes) == dict(expected.shapes)
    for term, other in zip(found.terms, expected.terms, strict=True):
        assert (term.settings, term.weight, list(term.modules)) == (other.settings, other.weight, list(other.modules))
        assert (term.prompts, term.relative) == (other.prompts, other.relative)
        for name in term.modules:
            assert (term.modules[name].scale, term.modules[name].relative) == (
                other.modules[name].scale,
                other.modules[name].relative,
            )
            assert term.modules[name].spectrum == other.modules[name].spectrum
            pairs = zip(parts(term.modules[name]), parts(other.modules[name]), strict=True)
            assert all(a == b and torch.equal(x, y) and x.dtype == y.dtype for (a, x), (b, y) in pairs)
    assert found.sha256() == expected.sha256()
    assert str(found) == str(expected)


def test_what_an_anchor_is_scaled_by_and_looked_at_is_in_the_hash():
    original = built([Relative()])
    (term,) = original.terms
    name = next(iter(term.modules))

    def with_module(**changes):
        modules = {**term.modules, name: replace(term.modules[name], **changes)}
        return replace(original, terms=(replace(term, modules=modules),))

    others = [
        with_module(scale=term.modules[name].scale * (1 + 1e-12)),
        with_module(relative=False),
        replace(original, terms=(replace(term, prompts=("aa",)),)),
    ]
    assert len({original.sha256(), *(other.sha256() for other in others)}) == 1 + len(others)
    assert not with_module(relative=False).terms[0].relative


def test_an_activation_anchor_is_read_back_exactly(tmp_path):
    plain, rows = speaking_model(), prompts(tmp_path)
    model = adapted(deepcopy(plain))
    anchors = [Activation(prompts=rows, ridge=0.1, weight=2.0), Activation(prompts=rows, tokens="last")]
    expected = build_anchors(model, plain, anchors=anchors, probe=probe(plain), progress=False)
    expected.save(tmp_path / "anchors.safetensors")
    found = AnchorSet.load(tmp_path / "anchors.safetensors")
    assert found.sha256() == expected.sha256() and dict(found.sources) == dict(expected.sources)
    for term, other in zip(found.terms, expected.terms, strict=True):
        assert (term.settings, term.prompts, term.relative) == (other.settings, other.prompts, True)
        assert len(term.prompts) == 5
    values = [float(UpdatePenalty(model, each, resumed=True)()) for each in (found, expected)]
    assert values[0] == values[1] > 0
    lines = [line.split() for line in str(found).splitlines() if "  Activation " in line]
    assert len(lines) == 2 * len(found.shapes)


def test_saving_leaves_one_file(tmp_path):
    for _ in range(2):
        built([Gram()]).save(tmp_path / "anchors.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["anchors.safetensors"]


def test_the_hash_is_stable():
    assert built(ANCHORS["sum"]).sha256() == built(ANCHORS["sum"]).sha256()


def test_the_hash_tells_every_difference():
    original = built([Gram()])
    term = original.terms[0]
    name = next(iter(term.modules))
    form = term.modules[name].out
    turned = torch.nextafter(form.directions, torch.tensor(9.0))

    def with_form(form):
        modules = {**term.modules, name: replace(term.modules[name], out=form)}
        return replace(original, terms=(replace(term, modules=modules),))

    others = [
        with_form(replace(form, directions=torch.cat([turned[:, :1], form.directions[:, 1:]], dim=1))),
        with_form(replace(form, beta=0.0)),
        with_form(replace(form, weights=form.weights + 1e-6)),
        replace(original, terms=(replace(term, weight=2.0),)),
        replace(original, terms=(term, term)),
        built([Gram(tolerance=0.1)]),
        built([Gram()], scale=0.2),
    ]
    assert len({original.sha256(), *(other.sha256() for other in others)}) == 1 + len(others)


def damage(path, change) -> None:
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "anchors.safetensors"
    built([Gram()]).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AnchorError, match=rf"{path} cannot be read as anchors.*Build them again"):
        AnchorSet.load(path)


@pytest.mark.parametrize("where", ["absent.safetensors", "."], ids=["absent", "folder"])
def test_a_missing_file_is_refused(tmp_path, where):
    with pytest.raises(AnchorError, match=r"cannot be read as anchors.*Build them again"):
        AnchorSet.load(tmp_path / where)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "asft-lightning anchors 1"}])
def test_a_foreign_file_is_refused(tmp_path, metadata):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", metadata)
    with pytest.raises(AnchorError, match=rf"must be a file of format '{AnchorSet.FORMAT}', got .*Build it again"):
        AnchorSet.load(tmp_path / "model.safetensors")


INCONSISTENT = {
    "no header": lambda tensors, metadata: metadata.pop("anchors"),
    "broken header": lambda tensors, metadata: metadata.update(anchors="{"),
    "empty header": lambda tensors, metadata: metadata.update(anchors=json.dumps({})),
    "a tensor less": lambda tensors, metadata: tensors.pop(next(n for n in tensors if n.endswith("out.directions"))),
}


@pytest.mark.parametrize("case", INCONSISTENT)
def test_an_inconsistent_file_is_refused(tmp_path, case):
    path = tmp_path / "anchors.safetensors"
    built([Gram()]).save(path)
    damage(path, INCONSISTENT[case])
    with pytest.raises(AnchorError, match=rf"{path} cannot be read as anchors.*Build them again"):
        AnchorSet.load(path)


def test_a_set_is_read_where_another_device_is_the_default(tmp_path):
    # As Lightning's is the GPU while a model is configured.
    expected = built(ANCHORS["sum"])
    expected.save(tmp_path / "anchors.safetensors")
    with torch.device("meta"):
        found = AnchorSet.load(tmp_path / "anchors.safetensors")
        assert found.sha256() == expected.sha256()
