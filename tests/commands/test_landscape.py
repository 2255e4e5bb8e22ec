"""``asft-lightning landscape``, end to end on the sandbox pair."""

import json
import signal

import pytest
import torch
import yaml
from kit import tiny
from kit.commands import said

from asft_lightning import Pretrained, RefusalJudge, SafetyEvaluation, Source, Template, map_landscape
from asft_lightning.cli import main
from asft_lightning.landscape.scoring import PointScorer

PAIR = Pretrained("sandbox:aligned", "sandbox:base")


PROMPTS = {"prompts": {"path": "sandbox:unsafe_prompts"}, "max_prompts": 6, "max_new_tokens": 8}
TASK = {"prompts": {"path": "sandbox:instructions"}, "max_prompts": 4}


def command(folder, **settings):
    """The command line of a map whose settings stand in a file."""
    pair = {"aligned": PAIR.aligned, "base": PAIR.base}
    safety = {"class_path": "SafetyEvaluation", "init_args": PROMPTS}
    content = {"pretrained": pair, "safety": safety, "output": str(folder / "map"), **settings}
    (folder / "map.yaml").write_text(yaml.safe_dump(content))
    return ["landscape", "--config", str(folder / "map.yaml")]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """(the command, its folder) of a map that has been made."""
    folder = tmp_path_factory.mktemp("map")
    adapter = tiny.write_adapter(folder / "adapter", PAIR)
    tuned = {"class_path": "Tuned", "init_args": {"place": adapter, "name": "harmful"}}
    line = command(
        folder,
        directions=[{"class_path": "Aligned"}, tuned],
        beside=[{"class_path": "asft_lightning.UtilityEvaluation", "init_args": TASK}],
        loss={"path": "sandbox:instructions", "rows": "0:4"},
        random=2,
        points=5,
        plane=["aligned", "harmful"],
        plane_points=3,
        runs={"run": adapter},
    )
    main(line)
    return line, folder / "map"


def test_what_a_map_leaves_and_says(mapped, capsys):
    line, folder = mapped
    main(line)  # nothing is scored again
    shown = capsys.readouterr()
    found = json.loads((folder / "landscape.json").read_text())
    assert found["curves"].keys() == {"aligned", "harmful", "random-0", "random-1"}
    scores = {"safety/harmful_score", "safety/incoherent", "utility/accuracy", "loss"}
    assert found["curves"]["aligned"]["scores"].keys() == scores
    assert found["curves"]["aligned"]["scores"]["safety/harmful_score"][2] == 0  # the aligned model itself
    assert found["cosines"]["aligned"]["aligned"] == pytest.approx(1)
    assert found["random_cosine"]["measured"] == pytest.approx(found["random_cosine"]["expected"], rel=1)
    assert len(found["plane"]["paths"]["run"]) == 1
    assert len((folder / "points.jsonl").read_text().splitlines()) == 1 + 4 * 4 + 4
    assert all(
        (folder / f"{name}.{kind}").stat().st_size for name in ("curves", "plane", "surface") for kind in ("png", "svg")
    )
    assert "mean of 2 random" in shown.out and f"written to {folder / 'curves.png'}" in shown.out
    assert "Points" not in shown.err


def test_the_axes_of_a_plane_equal_the_lines(mapped):
    _, folder = mapped
    found = json.loads((folder / "landscape.json").read_text())
    plane = found["plane"]["scores"]["loss"]
    assert plane[1] == found["curves"]["aligned"]["scores"]["loss"][::2]
    assert [row[1] for row in plane] == found["curves"]["harmful"]["scores"]["loss"][::2]


def test_a_plane_of_orthogonal_directions_is_added_to_what_is_there(mapped):
    line, folder = mapped
    count = len((folder / "points.jsonl").read_text().splitlines())
    main([*line, "--orthogonal", "true", "--runs", "null"])
    found = json.loads((folder / "landscape.json").read_text())
    assert found["plane"]["second"] == "harmful (orthogonal)"
    assert found["cosines"]["aligned"]["harmful (orthogonal)"] == pytest.approx(0, abs=1e-6)
    assert len((folder / "points.jsonl").read_text().splitlines()) == count + 2 + 4  # the second axis, and the corners


def test_an_adapter_that_was_trained_anew_is_noticed(mapped, capsys):
    line, folder = mapped
    tiny.write_adapter(folder.parent / "adapter", PAIR, seed=1)
    try:
        assert "has points with directions.harmful.length" in said(capsys, *line)
    finally:
        tiny.write_adapter(folder.parent / "adapter", PAIR)


def test_the_base_model_is_where_it_should_be(tmp_path):
    """Unscaled, −1 along the alignment is the base model, where every weight is moved: it refuses nothing."""
    main(command(tmp_path, random=0, norm="raw", weights="all", reach=1, points=3))
    curve = json.loads((tmp_path / "map" / "landscape.json").read_text())["curves"]["aligned"]
    assert curve["scores"]["safety/harmful_score"][:2] == [100, 0]


def test_processes_share_the_points_and_the_last_one_reports(tmp_path, capsys):
    line = command(tmp_path, random=1, points=3)
    main([*line, "--share", "1/2"])
    assert "2 points of others are not" in capsys.readouterr().out
    main([*line, "--share", "2/2"])
    shares = [tmp_path / "map" / f"share-{number}-of-2" / "points.jsonl" for number in (1, 2)]
    assert [len(share.read_text().splitlines()) for share in shares] == [3, 2]
    assert json.loads((tmp_path / "map" / "landscape.json").read_text())["curves"].keys() == {"aligned", "random-0"}
    main([*line, "--points", "5"])  # goes on from what all of them kept
    assert len((tmp_path / "map" / "points.jsonl").read_text().splitlines()) == 4
    main([*line, "--points", "3"])  # and what is there counts, also where it is between the grid's points
    found = json.loads((tmp_path / "map" / "landscape.json").read_text())
    assert found["curves"]["aligned"]["positions"] == [-0.5, -0.25, 0.0, 0.25, 0.5]


class Interrupting(RefusalJudge):
    """A Ctrl-C while the third point is judged."""

    asked = 0

    def __call__(self, prompts, answers):
        type(self).asked += 1
        if self.asked == 3:
            signal.raise_signal(signal.SIGINT)
        return super().__call__(prompts, answers)


def test_a_map_that_was_interrupted_goes_on(tmp_path):
    safety = SafetyEvaluation(Source("sandbox:unsafe_prompts"), judge=Interrupting(), max_prompts=2, max_new_tokens=4)
    with pytest.raises(KeyboardInterrupt):
        map_landscape(PAIR, str(tmp_path), safety, random=1, points=3)
    assert len((tmp_path / "points.jsonl").read_text().splitlines()) == 2
    report = map_landscape(PAIR, str(tmp_path), safety, random=1, points=3)
    assert Interrupting.asked == 3 + 3 and [curve.name for curve in report.curves] == ["aligned", "random-0"]


def test_the_loss_is_that_of_transformers():
    model, tokenizer, template = PAIR.load_model().eval(), PAIR.load_tokenizer(), Template()
    source = Source("sandbox:instructions", rows="0:1")
    scorer = PointScorer(SafetyEvaluation(Source("sandbox:unsafe_prompts"), max_prompts=1), [], source, tokenizer, template)
    rendered = template.render(tokenizer, source.load()[0])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([rendered.input_ids]), labels=torch.tensor([rendered.labels])).loss
    assert scorer(model)["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--safety.max_new_tokens", "9"], "has points with safety.max_new_tokens 8, got 9"),
        (["--norm", "raw"], "has points with directions.aligned.norm"),
        (["--plane", "[aligned, other]"], "a plane must be two of the directions aligned, harmful, random-0, random-1"),
        (["--plane", "null"], "orthogonal and runs are for a plane"),
        (["--share", "0/2"], "a share must be one of several, from 1/4 to 4/4, got '0/2'"),
        (["--threshold", "100"], "threshold must lie in 0..100"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--reaches", "{other: 0.1}"], "reaches are of the directions aligned, harmful, got 'other'"),
        (["--random", "-1"], "random must be 0 directions or more"),
        (["--points", "4"], "an odd number of points"),
    ],
)
def test_mistakes_are_said_in_one_line(mapped, capsys, more, told):
    line, _ = mapped
    assert told in said(capsys, *line, *more)
