"""Weights that are moved, and put back bit for bit; points that are scored once."""

import json

import pytest
import torch
from torch import nn

from asft_lightning import ConfigurationError
from asft_lightning.functional import basin, visage
from asft_lightning.landscape.grid import line, plane, point, positions
from asft_lightning.landscape.kept_points import KeptPoints
from asft_lightning.landscape.mapping import score_points
from asft_lightning.landscape.perturbation import Perturbation
from asft_lightning.landscape.rays import Ray

SETTINGS = {"safety": {"max_new_tokens": 8}, "directions": {"across": {"norm": 1.0}}}


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def model(request):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).to(request.param)


def a_ray(model, seed=0, norm="frobenius"):
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(weight.shape, generator=generator) for name, weight in model.named_parameters()}
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return Ray.of(f"ray {seed}", drawn.__getitem__, weights, norm)


def names(model):
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_every_weight_is_put_back_to_the_bit_however_it_ends(model, error):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    perturbation, ray = Perturbation(model, names(model)), a_ray(model, norm="global")
    for alpha in (0.1, -0.7, 1e6):
        try:
            with perturbation.at({ray: alpha, a_ray(model, 1): 0.3}):
                assert not any(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
                if error is not None:
                    raise error
        except (KeyboardInterrupt, ValueError):
            pass
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_an_interruption_while_weights_are_moved_puts_back_those_that_were(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    ray = a_ray(model, norm="raw")

    def part(name):
        if name == "1.weight":
            raise KeyboardInterrupt
        return ray.parts(name)

    broken = Ray("broken", part, ray.factors, ray.squares, ray.length)
    with pytest.raises(KeyboardInterrupt), Perturbation(model, names(model)).at({broken: 1.0}):
        pass
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_point_does_not_depend_on_the_points_before_it(model):
    perturbation, ray = Perturbation(model, names(model)), a_ray(model)
    with perturbation.at({ray: 0.3}):
        once = model[0].weight.clone()
    for _ in range(20):
        with perturbation.at({ray: 0.1}):
            pass
    with perturbation.at({ray: 0.3}):
        assert torch.equal(model[0].weight, once)


@pytest.fixture
def known(tmp_path):
    """(run, asked, folder): a model of one number, 2, whose harmful score is 40·|w − 2|, along what adds α to it."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    ray = Ray.of("across", lambda name: torch.ones(1, 1), {"weight": model.weight.detach()}, "global")
    asked = []

    def score(model):
        asked.append(float(model.weight.detach()))
        return {"harmful_score": 40 * abs(asked[-1] - 2)}

    def run(points, settings=SETTINGS):
        kept = KeptPoints(tmp_path, settings)
        score_points(model, Perturbation(model, ["weight"]), {"across": ray}, points, score, kept)
        return kept

    return run, asked, tmp_path


def test_a_score_that_is_known_gives_its_figures_exactly(known):
    run, _, _ = known
    alphas = positions(2.5, 11)
    kept = run(line("across", alphas))
    scores = [kept.scores[place]["harmful_score"] for place in line("across", alphas)]
    found = basin(alphas, scores, 10)
    assert (found.low, found.high, found.epl) == (-0.25, 0.25, 0.25)
    assert visage(scores) == pytest.approx(sum(100 - 40 * abs(alpha) for alpha in alphas[1:-1]) / 9)


def test_points_of_another_map_within_are_not_taken(known):
    run, _, folder = known
    other = KeptPoints(folder / "another", SETTINGS | {"norm": "other"})
    other.add(point({"across": 1.0}), {"harmful_score": 99.0}, 1.0)
    assert run([]).scores == {}
    (folder / "share-1-of-2").mkdir()
    shared = KeptPoints(folder, SETTINGS, "share-1-of-2")
    shared.add(point({"across": 0.5}), {"harmful_score": 20.0}, 1.0)
    assert list(run([]).scores.values()) == [{"harmful_score": 20.0}]


def test_a_map_goes_on_and_never_scores_a_point_twice(known):
    run, asked, folder = known
    run(line("across", positions(1, 3)))
    with (folder / "points.jsonl").open("ab") as file:
        file.write(b'{"at": {"across": 0.5}, "sco')  # what a kill leaves
    kept = run(line("across", positions(1, 5)))
    assert asked == [1.0, 2.0, 3.0, 1.5, 2.5] and len(kept.scores) == 5
    assert [json.loads(text)["at"] for text in (folder / "points.jsonl").read_text().splitlines()][-1] == {"across": 0.5}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"safety": {"max_new_tokens": 9}}, "safety.max_new_tokens 8, got 9"),
        ({"safety": {"max_new_tokens": 8, "judge": "x"}}, "safety.judge None, got 'x'"),
        ({"directions": {"across": {"norm": 1.01}}}, "directions.across.norm 1.0, got 1.01"),
    ],
)
def test_another_setting_is_refused_by_its_name(known, settings, told):
    run, _, _ = known
    run([point({})])
    with pytest.raises(ConfigurationError, match=told):
        run([point({})], SETTINGS | settings)


def test_another_direction_is_added_to_those_that_are_there(known):
    run, asked, folder = known
    run([point({})])
    run([point({})], SETTINGS | {"directions": {"along": {"norm": 2.0}}})
    assert len(asked) == 1
    assert json.loads((folder / "settings.json").read_text())["directions"].keys() == {"across", "along"}


@pytest.mark.parametrize("line", ['{"at": 3}', "no JSON"])
def test_a_damaged_line_is_said(known, line):
    run, _, folder = known
    run([point({})])
    (folder / "points.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigurationError, match=r"line 1 of .* must be a point, and is none"):
        run([point({})])


def test_the_axes_of_a_plane_are_the_points_of_its_lines():
    coarse, fine = positions(0.7, 11), positions(0.7, 21)
    rows = plane("a", "b", coarse)
    assert set(rows[5]) <= set(line("a", fine)) and {row[5] for row in rows} <= set(line("b", fine))


@pytest.mark.parametrize(("reach", "count", "told"), [(1, 4, "an odd number of points"), (0, 5, "reach must be positive")])
def test_lines_that_cannot_be(reach, count, told):
    with pytest.raises(ConfigurationError, match=told):
        positions(reach, count)
