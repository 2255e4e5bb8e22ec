"""What is written on the command line is taken as in a config: a path in the place of a source, and null."""

import pytest
import yaml
from kit import tiny
from kit.commands import said

from asft_lightning.cli import main

CONFIG = ["--config", "models/sandbox", "--config", "data/sandbox", "--config", "methods/sft", "--data.poison_ratio", "0"]


@pytest.mark.parametrize("form", ["--data.benign {}", "--data.benign={}", "--data.init_args.benign {}"])
def test_a_file_stands_for_a_source(tmp_path, capsys, form):
    """The columns are the file's, not those that a config says of another source."""
    rows = tiny.write_rows(tmp_path / "mine.jsonl", [{"instruction": "say monday", "output": "monday"}] * 20)
    main(["describe", *CONFIG, *form.format(rows).split(), "--data.num_rows", "10"])
    assert "mine.jsonl" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    message = said(capsys, "describe", *CONFIG, "--data.benign", str(tmp_path / "absent.jsonl"))
    assert "absent.jsonl does not. Give the path" in message


@pytest.mark.parametrize("form", ["--{}=null", "--{} null"])
@pytest.mark.parametrize("part", ["model", "data"])
def test_null_takes_the_place_of_what_a_config_said(tmp_path, capsys, part, form):
    said_before = {
        "model": {
            "answers": {"budget": 0.1},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"foreach": True}},
        },
        "data": {"safety": {"path": "sandbox:refusals", "rows": "0:8"}, "harmful": {"path": "sandbox:harmful"}},
    }
    nulls = {
        "model": ["answers.harmless", "answers.budget", "optimizer.init_args.foreach", "lr_scheduler"],
        "data": ["audit.unsafe", "safety.rows", "harmful"],
    }
    config = tmp_path / "said.yaml"
    config.write_text(yaml.safe_dump({name: {"init_args": arguments} for name, arguments in said_before.items()}))
    options = [word for name in nulls[part] for word in form.format(f"{part}.init_args.{name}").split()]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["fit", *CONFIG[:-4], "--config", "methods/protect", "--config", str(config), *options, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)[part]["init_args"]
    for name in nulls[part]:
        found = printed
        for key in name.split("."):
            found = found[key]
        assert found is None, name
