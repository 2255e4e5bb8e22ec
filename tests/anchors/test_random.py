"""Random: Gram's spectrum on other directions."""

import pytest
import torch
from kit.models import tiny_model, with_lora

from asft_lightning.anchors import Gram, Random, build_anchors


def modules_of(*anchors):
    aligned = tiny_model()
    base = {name: value + 0.3 * torch.randn_like(value) for name, value in aligned.state_dict().items()}
    found = build_anchors(with_lora(tiny_model()), aligned, base, anchors, progress=False)
    return [term.modules for term in found.terms]


@pytest.fixture(scope="module")
def built():
    """{module: anchor} of Gram and of three draws."""
    torch.manual_seed(0)
    return modules_of(Gram(), Random(), Random(), Random(seed=1))


def test_spectrum_is_that_of_gram(built):
    gram, random, *_ = built
    for name, anchor in random.items():
        expected = gram[name]
        assert torch.equal(anchor.eigenvalues, expected.eigenvalues)
        assert torch.equal(anchor.out.weights, expected.out.weights)
        assert (anchor.spectrum.norm, anchor.spectrum.largest) == (expected.spectrum.norm, expected.spectrum.largest)


def test_directions_are_orthonormal_and_others_in_every_module(built):
    gram, random, *_ = built
    for name, anchor in random.items():
        u = anchor.out.directions.double()
        assert torch.allclose(u.mT @ u, torch.eye(u.shape[1], dtype=torch.float64), atol=1e-6)
        assert not torch.allclose(
            (u.mT @ gram[name].out.directions.double()).abs().diagonal(), torch.ones(()).double(), atol=0.1
        )
    first, second = (random[f"model.layers.{i}.self_attn.q_proj"].out.directions for i in (0, 1))
    assert not torch.allclose(first[:, 0], second[:, 0], atol=0.1)


def test_energy_is_that_of_the_directions_as_they_are(built):
    gram, random, *_ = built
    assert all(anchor.spectrum.energy <= gram[name].spectrum.energy + 1e-9 for name, anchor in random.items())
    assert any(anchor.spectrum.energy < gram[name].spectrum.energy - 0.01 for name, anchor in random.items())


def test_seed_decides(built):
    _, once, again, other = built
    for name, anchor in once.items():
        assert torch.equal(anchor.out.directions, again[name].out.directions)
        assert not torch.allclose(anchor.out.directions, other[name].out.directions, atol=0.1)
