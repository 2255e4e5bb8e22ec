"""What shows a run's progress on the command line: one thing of ours, or what the user names."""

import sys

import pytest
from kit.commands import write_config
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from asft_lightning.commands.fit import AsFTCLI
from asft_lightning.runtime.progress_bar import OneLineBar
from asft_lightning.runtime.progress_lines import ProgressLines


@pytest.mark.parametrize(
    ("is_terminal", "trainer", "kinds"),
    [
        (True, [], {OneLineBar}),
        (False, [], {ProgressLines}),
        (True, ["--trainer.enable_progress_bar=false"], set()),
        (False, ["--trainer.enable_progress_bar=false"], set()),
        (True, ["--trainer.callbacks+=TQDMProgressBar"], {TQDMProgressBar}),
        (False, ["--trainer.callbacks=RichProgressBar"], {RichProgressBar}),
    ],
)
def test_the_command_line_has_one_unless_another_is_named(tmp_path, monkeypatch, is_terminal, trainer, kinds):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI does, whose log is no terminal for that
    config = write_config(tmp_path)
    cli = AsFTCLI(["--config", config, "--trainer.enable_progress_bar=true", *trainer], run=False)
    assert {type(one) for one in cli.trainer.callbacks if isinstance(one, ProgressBar)} == kinds
