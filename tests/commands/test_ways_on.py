"""The last lines of commands: what they say to type is what the command line takes, with paths of any name."""

import shlex
from pathlib import Path

import pytest

from asft_lightning.cli import COMMANDS
from asft_lightning.commands import ways_on

RUN = Path("my runs/it's mine")
LINES = [
    *ways_on.after_training(RUN),
    *ways_on.after_talk(str(RUN)),
    *ways_on.after_answers(str(RUN), "a b.jsonl", RUN / "a.jsonl", has_both=False),
    *ways_on.after_anchors(RUN / "anchors.safetensors"),
]


@pytest.mark.parametrize("said", LINES)
def test_paths_with_spaces_are_one_word(said):
    words = shlex.split(said.partition(": ")[2])
    assert any(word.startswith(str(RUN)) for word in words)
    assert words[0] == "--model.anchor_file" or (words[0] == "asft-lightning" and words[1] in COMMANDS)


def test_answers_of_both_go_beside_those_that_are_there():
    beside, more = ways_on.after_answers("run", "p.jsonl", Path("out/a.jsonl"), has_both=False)
    assert beside.endswith(": asft-lightning generate run p.jsonl out/a-both.jsonl --adapter both")
    assert ways_on.after_answers("run", "p.jsonl", Path("out/a.jsonl"), has_both=True) == [more]


def test_a_repaired_adapter_is_scored_by_the_config_of_its_run(tmp_path):
    assert "docs/finished-adapter.md" in ways_on.after_projection(tmp_path / "adapter", Path("safer"))[0]
    (tmp_path / "config.yaml").touch()
    (said,) = ways_on.after_projection(tmp_path / "adapter", Path("safer"))
    words = f"--config {tmp_path}/config.yaml --model.init_args.adapter safer --trainer.default_root_dir safer-scored"
    assert said == f"to score it: asft-lightning test {words}"
