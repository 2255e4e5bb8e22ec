"""Directions of the tiny pair, against dense references."""

import math

import pytest
import torch
from kit import tiny
from peft import PeftModel

from asft_lightning import ConfigurationError
from asft_lightning.landscape import Aligned, Random, Tuned
from asft_lightning.landscape.directions import orthogonal
from asft_lightning.landscape.rays import Ray, cosines
from asft_lightning.landscape.space import Space
from asft_lightning.landscape.trail import projected


@pytest.fixture(scope="module")
def space(pretrained):
    return Space.of(pretrained, "all")


@pytest.fixture(scope="module")
def weights(pretrained):
    return {name: weight.detach() for name, weight in pretrained.load_model().named_parameters()}


def test_aligned_is_the_difference_of_the_pair(pretrained, space, weights):
    parts = Aligned().open(space)
    base = tiny.as_pretrained((pretrained.base, pretrained.base)).load_model()
    assert all(torch.equal(parts(name), weights[name] - weight) for name, weight in base.named_parameters())


def test_an_adapter_leads_to_the_model_with_it_merged(pretrained, tmp_path, weights):
    tiny.write_adapter(tmp_path / "run" / "adapter", pretrained)
    merged = PeftModel.from_pretrained(pretrained.load_model(), tmp_path / "run" / "adapter").merge_and_unload()
    space = Space.of(pretrained, "targets", tiny.LORA)
    assert len(space.shapes) == 4
    for place in (tmp_path / "run", tmp_path / "run" / "adapter"):  # a run's folder, and the adapter's own
        parts = Tuned(str(place), "harmful").open(space)
        for name, weight in merged.named_parameters():
            if name in space.shapes:
                torch.testing.assert_close(weights[name] + parts(name), weight.detach())


def test_another_model_lies_at_one(pretrained, space, weights):
    parts = Tuned(pretrained.base, "other").open(space)
    base = tiny.as_pretrained((pretrained.base, pretrained.base)).load_model()
    for name, weight in base.named_parameters():
        torch.testing.assert_close(weights[name] + parts(name), weight.detach())


def test_an_adapter_that_changes_more_than_is_moved_is_refused(pretrained, tmp_path):
    tiny.write_adapter(tmp_path, pretrained, target_modules=["q_proj", "o_proj"])
    with pytest.raises(ConfigurationError, match=r"changes model\.layers\.0\.self_attn\.o_proj\.weight, which is not"):
        Tuned(str(tmp_path), "wide").open(Space.of(pretrained))


def test_random_is_the_same_each_time_and_another_for_each_seed(space):
    name = next(iter(space.shapes))
    assert torch.equal(Random(3).open(space)(name), Random(3).open(space)(name))
    assert not torch.equal(Random(3).open(space)(name), Random(4).open(space)(name))


def test_norms(space, weights):
    parts = Random().open(space)
    frobenius, unit, raw = (Ray.of("r", parts, weights, norm) for norm in ("frobenius", "global", "raw"))
    for name, weight in weights.items():
        if weight.ndim < 2:  # norm layers stay, as in llm-landscape
            assert frobenius.part(name) is None and unit.part(name) is not None
        else:
            torch.testing.assert_close(frobenius.part(name).norm(), weight.norm())
        assert torch.equal(raw.part(name), parts(name))
    assert math.sqrt(sum(float(unit.part(name).square().sum()) for name in weights)) == pytest.approx(1)
    count = sum(weight.numel() for weight in weights.values())
    assert unit.norm == pytest.approx(1) and raw.norm == pytest.approx(math.sqrt(count), rel=0.02)


@pytest.mark.parametrize("norm", ["frobenius", "global", "raw"])
def test_orthogonal_holds_under_each_norm_and_cosines_say_so(space, weights, norm):
    first, second = Aligned().open(space), Random().open(space)
    rays = [Ray.of(str(i), parts, weights, norm) for i, parts in enumerate([first, second, orthogonal(second, first)])]
    found = cosines(rays, rays, list(weights))
    assert found[0][2] == pytest.approx(0, abs=1e-6) and abs(found[0][1]) > 1e-6
    assert [found[i][i] for i in range(3)] == pytest.approx([1, 1, 1])


def test_a_direction_that_leads_nowhere_is_refused(space, weights):
    aligned = Aligned().open(space)
    with pytest.raises(ConfigurationError, match="must lead somewhere, and same is 0"):
        Ray.of("same", orthogonal(aligned, aligned), weights)


def test_an_update_within_the_plane_is_found_where_it_is(space, weights):
    first, second, third = (Ray.of(str(seed), Random(seed).open(space), weights) for seed in range(3))
    matrices = {name: weight for name, weight in weights.items() if weight.ndim == 2}

    def update(x, y, z):
        parts = {name: x * first.part(name) + y * second.part(name) + z * third.part(name) for name in matrices}
        return Ray.of("update", parts.__getitem__, matrices, "raw")

    assert projected(update(0.2, -0.1, 0), first, second, list(matrices)) == pytest.approx((0.2, -0.1, 0), abs=1e-3)
    assert projected(update(0.3, 0, 0.4), first, second, list(matrices))[2] == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda pair: Aligned().open(Space.of(tiny.Pretrained(pair.aligned))), "pretrained.base is not given"),
        (lambda pair: Tuned("x", "random-1"), "names in random- are for random directions"),
        (lambda pair: Tuned("x", "a/b"), "a direction's name must be letters"),
        (lambda pair: Space.of(tiny.Pretrained(pair.aligned, load_in_4bit=True)), "load_in_4bit true"),
        (lambda pair: Space.of(pair, "all", {"r": 4}), "got it with all of them"),
    ],
)
def test_settings_that_cannot_be(pretrained, make, told):
    with pytest.raises(ConfigurationError, match=told):
        make(pretrained)
