"""The first page of ``fit --help``: it fits a screen, and what it says of each setting is so."""

import json

import pytest
import yaml

from asft_lightning.cli import main
from asft_lightning.commands.common_settings import SETTINGS
from asft_lightning.modules.lora_config import PAPER_LORA

NEEDED = {"--config": "methods/asft", "--pretrained.aligned": "A", "--data.benign": "rows.jsonl"}
OTHER = {
    "--pretrained.base": "B", "--data.num_rows": 5, "--data.poison_ratio": 0.5, "--data.batch_size": 3,
    "--model.lambda_reg": 3.0, "--model.answers.budget": 0.2, "--model.lora": {"r": 4, "target_modules": ["q_proj"]},
    "--model.optimizer.lr": 0.25, "--trainer.max_epochs": 2, "--trainer.precision": "bf16-true", "--trainer.devices": "2",
    "--trainer.strategy": "ddp", "--trainer.default_root_dir": "here", "--seed_everything": 7, "--ckpt_path": "auto",
}  # fmt: skip
BY_LIGHTNING = {"--trainer.max_epochs": "1000", "--trainer.precision": "32-true"}
"""What its Trainer makes of null."""


def printed(capsys, settings):
    """The configuration that a command line comes to."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    arguments = [part for setting in texts.items() for part in setting]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "--data=MixtureDataModule", *arguments, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def value_at(config, option):
    """What a configuration says of a setting, by the name that the command line has for it."""
    for key in option.removeprefix("--").split("."):
        config = config.get("init_args", config) if isinstance(config, dict) else config
        config = config[key]
    return config


@pytest.mark.parametrize("command", ["fit", "validate", "test", "describe", "audit"])
def test_the_first_page_fits_a_terminal(capsys, command):
    main([command, "--config", "quickstart", "--help"])
    page = capsys.readouterr().out
    assert page.isascii() and len(page.splitlines()) <= 24 and max(map(len, page.splitlines())) <= 80
    assert f"usage: asft-lightning {command} " in page and f"asft-lightning {command} --help all" in page
    assert len(SETTINGS) >= 15 and all(setting.option in page for setting in SETTINGS)


@pytest.mark.parametrize("all_of_it", [["--help", "all"], ["--help=all"]])
def test_the_second_has_all(capsys, all_of_it):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *all_of_it])
    page = capsys.readouterr().out
    assert ended.value.code == 0 and len(page.splitlines()) > 300
    assert "--trainer.accumulate_grad_batches" in page and "--template.style" in page
    assert "\nThe method: " in page and "\nThe rows:\n" in page and "last, auto, best, hpc" in page


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_checkpoint_is_never_read_as_objects(monkeypatch, capsys, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([command, "--config", "quickstart", "--weights_only", "false"])
    assert ended.value.code == 2 and "weights_only must be true or null, got false" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_its_defaults_are_those_of_the_run(capsys):
    config = printed(capsys, NEEDED)
    optional = [setting for setting in SETTINGS if setting.option not in NEEDED]
    for setting in optional:
        found = value_at(config, setting.option) if setting.option != "--model.answers.budget" else None
        if setting.option == "--model.lora":
            assert found is None and setting.default == f"r {PAPER_LORA['r']}"
        else:
            said = BY_LIGHTNING.get(setting.option) if found is None else None
            assert setting.default == (said or ("null" if found is None else str(found))), setting.option


def test_each_of_its_settings_arrives(capsys):
    assert {setting.option for setting in SETTINGS} == NEEDED.keys() | OTHER.keys()
    config = printed(capsys, NEEDED | {"--config": "methods/protect"} | OTHER)
    assert config["pretrained"]["aligned"] == "A" and config["data"]["init_args"]["benign"]["path"] == "rows.jsonl"
    assert {name: value_at(config, name) for name in OTHER} == OTHER
