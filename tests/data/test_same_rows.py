"""A run that is resumed trains on the rows that it began with, dates in them included; on no others."""

import os
from contextlib import nullcontext

import pytest
import yaml
from kit import commands, tiny
from kit.chat_templates import on_leap_day
from kit.ranks import on_ranks
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import DataError, LoRAFineTuner, Template
from asft_lightning.commands.fit import AsFTCLI

DAY = Template(date="2024-02-03")


def make_dated(folder):
    """Give a checkpoint a template that writes the date."""
    tokenizer = tiny.tiny_tokenizer("Today is {{ strftime_now('%d %B %Y') }}." + tiny.CHAT_TEMPLATE)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dated")
    names = [tiny.save_tiny(folder / name, seed) for name, seed in (("aligned", 1), ("base", 2))]
    make_dated(folder / "aligned")
    return tiny.as_pretrained(names)


def fit(pair, folder, steps, checkpoint=None, **settings):
    saver = ModelCheckpoint(folder / "run", save_last=True)
    trainer = tiny.tiny_trainer(folder / "run", callbacks=[saver], enable_checkpointing=True, max_steps=steps, max_epochs=-1)
    data = tiny.tiny_data(pair, folder, **{"template": DAY, "batch_size": 4} | settings)
    trainer.fit(tiny.fine_tuner(LoRAFineTuner, pair), data, ckpt_path=checkpoint)
    return trainer.global_step


@pytest.fixture(scope="module")
def checkpoint(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    fit(pair, folder, steps=1)
    return folder / "run" / "last.ckpt"


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        (
            {"num_rows": 20},
            r"how many there are \(16 before, 20 now\). Give it the files and settings it began with, or beg",
        ),
        ({"seed": 5}, r"their texts or their order \(files, seed"),
        ({"poison_ratio": 0.5}, r"their texts or their order"),
        ({"template": Template("plain", date=DAY.date)}, r"how they are written \(template\)"),
        (
            {"template": Template(date="2024-02-04")},
            r"the date in them \(2024-02-03 before, 2024-02-04 now\). Set template.d",
        ),
        (
            {"template": Template()},
            r"the date in them \(2024-02-03 before, .* Set template.date to 2024-02-03, or begin anew",
        ),
    ],
)
def test_other_rows_are_refused(pair, checkpoint, tmp_path, settings, difference):
    with pytest.raises(DataError, match=r"must train on the rows that it began with, and these differ in " + difference):
        fit(pair, tmp_path, 2, checkpoint, **settings)


def test_another_tokenizer_is_refused(pretrained, checkpoint, tmp_path):
    with pytest.raises(DataError, match=r"these differ in their token ids \(the tokenizer\)"):
        fit(pretrained, tmp_path, 2, checkpoint)


def test_same_rows_go_on(pair, checkpoint, tmp_path):
    assert fit(pair, tmp_path, 2, checkpoint) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 8},
            r"rows a batch, of all devices together, must stay 4, got 8: a resumed run goes on with the",
        ),
        ({"batch_size": 2}, r"must stay 4, got 2: .* Set batch_size × devices back, or begin anew without ckpt_path"),
        ({"group_by_length": True}, r"group_by_length must stay false, got true: .* Set it back, or begin anew"),
    ],
)
def test_other_batches_are_refused(pair, checkpoint, tmp_path, settings, message):
    """They would skip rows, or train on some twice."""
    with pytest.raises(DataError, match=message):
        fit(pair, tmp_path, 2, checkpoint, **settings)


def test_date_that_no_row_has_is_no_difference(pretrained, tmp_path):
    fit(pretrained, tmp_path, 1)
    last = tmp_path / "run" / "last.ckpt"
    assert fit(pretrained, tmp_path, 2, last, template=Template(date="2024-02-04")) == 2


def test_run_that_goes_on_on_another_day_keeps_its_date(tmp_path, seed_stays):
    config = commands.write_config(tmp_path, "LoRAFineTuner")
    make_dated(tmp_path / "aligned")
    with on_leap_day():
        AsFTCLI(["fit", "--config", config])
    cli = AsFTCLI(["fit", "--config", config, "--trainer.max_steps", "3", "--ckpt_path", "last"])

    assert cli.trainer.global_step == 3
    assert cli.model.template == cli.datamodule.template == Template(date="2024-02-29")
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["template"]["date"] == "2024-02-29"
    assert AsFTCLI(["fit", "--config", config, "--template.date", DAY.date]).model.template == DAY  # begun anew


def test_run_of_another_folder_is_gone_on_from_with_its_date(tmp_path, seed_stays):
    """Whatever an earlier run in this folder had."""
    config = commands.write_config(tmp_path, "LoRAFineTuner")
    make_dated(tmp_path / "aligned")
    with on_leap_day():
        AsFTCLI(["fit", "--config", config])
    (last,) = (tmp_path / "run").glob("**/last.ckpt")
    other = ["--trainer.default_root_dir", str(tmp_path / "other")]
    AsFTCLI(["fit", "--config", config, *other])
    going_on = [*other, "--trainer.max_steps", "3", "--ckpt_path", str(last)]
    assert AsFTCLI(["fit", "--config", config, *going_on]).model.template.date == "2024-02-29"


def fit_as_rank(rank, config):
    """As torchrun begins it, the second rank after midnight."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # the group is there
    with on_leap_day() if rank == 1 else nullcontext():
        cli = AsFTCLI(["fit", "--config", config, "--trainer.strategy", "ddp", "--trainer.devices", "2"])
    return cli.model.template.day, cli.datamodule.template.day, cli.datamodule.fingerprint()["data_sha256"]


def test_ranks_that_begin_on_two_days_train_on_the_rows_of_one(tmp_path, seed_stays):
    config = commands.write_config(tmp_path, "LoRAFineTuner")
    make_dated(tmp_path / "aligned")
    first, second = on_ranks(fit_as_rank, 2, tmp_path, config)

    assert first == second
    assert first[0] == first[1] != "2024-02-29"
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["template"]["date"] == first[0]
