"""The command line: LightningCLI's subcommands with what every module of a run shares named once."""

import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from asft_lightning.callbacks.run_cost import RunCost
from asft_lightning.chat.template import Template
from asft_lightning.commands import anchors as anchor_commands
from asft_lightning.commands.export import export
from asft_lightning.commands.project_adapter import project_adapter
from asft_lightning.comparison import compare as compare_command
from asft_lightning.data import MixtureDataModule, show_description
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules import LoRAFineTuner
from asft_lightning.runs.logger import RunLogger
from asft_lightning.runtime.checkpoint_io import WholeCheckpointIO
from asft_lightning.runtime.exits import explain
from asft_lightning.weights.pretrained import Pretrained

# What third parties say on every run, that a user of this package can do nothing about.
_NOISE = (
    ".*does not have many workers.*",  # rows are token ids already: workers would only cost
    ".*is_gradient_checkpointing.* is deprecated.*",  # PEFT asking Transformers
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning asking torch
    ".*Checkpoint directory .* exists and is not empty.*",  # one run folder without version numbers, on purpose
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*args parameter is intended to run from within Python.*",  # describe takes its own word off the command line
    ".*Total length of `list` across ranks is zero.*",  # no validation rows were asked for
)

_OTHER_COMMANDS = (
    "Beside these, `asft-lightning anchors {build,show,diff}` makes anchors, shows and compares them, `asft-lightning "
    "describe`, with the arguments of fit, shows the rows that a run would train on, and `asft-lightning export RUN OUTPUT` "
    "writes a run's adapter or merged model with a model card, and `asft-lightning project-adapter ADAPTER OUTPUT` takes a "
    "finished adapter back to the alignment direction (Safe LoRA). `asft-lightning compare FILE` runs methods side by side, "
    "and reports."
)

_CHECKPOINTS = ("last", "auto", "best", "hpc")
"""What stands for a path of ``ckpt_path``: ``auto`` is ours, the last if there is one; the others are Lightning's."""


class AsFTCLI(LightningCLI):
    """``pretrained`` and ``template`` stand at the top of a config and reach both model and data.

    So files for a model, a data set, a method and a trainer combine in any order.
    """

    def __init__(self, args: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(
            model_class=LoRAFineTuner,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # the model's own argument: here parameters would not exist yet
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"default_root_dir": "runs/asft", "callbacks": [RunCost()]},
            seed_everything_default=0,
            parser_kwargs={"epilog": _OTHER_COMMANDS},
            args=list(args) if args is not None else None,
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The arguments that belong to no single module."""
        parser.add_argument("--pretrained", type=Pretrained, help="The checkpoints of the run.")
        parser.add_argument("--template", type=Template, default=Template(), help="How rows are written for the model.")
        for shared in ("pretrained", "template"):
            for module in ("model", "data"):
                parser.link_arguments(shared, f"{module}.init_args.{shared}")

    def _parse_ckpt_path(self) -> None:
        """Lightning's own reads the file too, and would end in torch's errors where it is damaged."""
        command = self.config.get("subcommand")
        path = self.config[command].get("ckpt_path") if command else None
        if path and Path(path).is_file():
            WholeCheckpointIO().load_checkpoint(path)
        super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """A checkpoint that is not there must show before a model is loaded."""
        path = self._get(self.config, "ckpt_path")
        if path and path not in _CHECKPOINTS and "://" not in path and not Path(path).exists():
            raise ConfigurationError(
                f"ckpt_path must be a checkpoint file or one of {', '.join(_CHECKPOINTS)}, and {path} does not exist. "
                "Leave it out to start anew."
            )

    def before_fit(self) -> None:
        """Find the last checkpoint: Lightning would start anew where there is none, over what is there."""
        settings = self._get(self.config_init, "ckpt_path")
        if settings not in ("last", "auto"):
            return
        savers = [saver for saver in self.trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        found = any(saver._find_last_checkpoints(self.trainer) for saver in savers)
        if not found and settings == "last":
            raise ConfigurationError(
                f"--ckpt_path last needs a last checkpoint, and {self.trainer.default_root_dir} has none. Add a "
                "ModelCheckpoint with save_last: true, as configs/trainer/resumable.yaml does; `auto` begins without one."
            )
        self.config_init["fit"]["ckpt_path"] = "last" if found else None
        for logger in self.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.resumed = found

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """One run folder, without version numbers: what a resumed run looks for is where it was."""
        settings, command = self._get(self.config_init, "trainer"), self.subcommand or "fit"
        if settings["logger"] in (None, True):
            folder = Path(settings["default_root_dir"]) / ("" if command == "fit" else command)  # the fit's figures stay
            kwargs["logger"] = RunLogger(folder, resumed=command == "fit" and bool(self._get(self.config, "ckpt_path")))
        return super().instantiate_trainer(**kwargs)


class _DataOnly(AsFTCLI):
    """The same arguments, of which no trainer comes about: this machine need not be the one to train on."""

    def instantiate_classes(self) -> None:
        """The data module alone."""
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule = self._get(self.config_init, "data")


def main(args: Sequence[str] | None = None) -> None:
    """Run ``asft-lightning``; a mistake of the user or the machine ends in one line and status 2."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    try:
        _run(sys.argv[1:] if args is None else list(args), args)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        end = explain(error)
        if end is None:
            raise
        if end.status == 128 + signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not break off what is left to do
        sys.stderr.write(f"asft-lightning: {end.message}\n")
        sys.exit(end.status)


def compare(file: str, jobs: int | None = None, report_only: bool = False) -> None:
    """Run the methods of one file side by side, as far as that is not done yet, and write the report.

    Args:
        file: The comparison, e.g. configs/compare/sandbox.yaml; docs/comparing.md says what it holds.
        jobs: Runs at once, in place of the file's.
        report_only: Run nothing; report what there is.
    """
    compare_command.compare(main, file, jobs, report_only)


_COMMANDS: Any = {
    "anchors": anchor_commands.COMMANDS,
    "compare": compare,
    "export": export,
    "project-adapter": project_adapter,
}
"""Those that are not a Trainer's, but for describe, which takes the arguments of fit."""


def _run(arguments: list[str], args: Sequence[str] | None) -> None:
    if arguments and arguments[0] in _COMMANDS:
        auto_cli(_COMMANDS, args=arguments, prog="asft-lightning")
    elif arguments[:1] == ["describe"]:
        _describe(_DataOnly(arguments[1:], run=False).datamodule)
    else:
        AsFTCLI(args)


def _describe(data: LightningDataModule) -> None:
    if not isinstance(data, MixtureDataModule):
        raise ConfigurationError(
            f"describe needs the rows of a MixtureDataModule, got {type(data).__name__}. Set data to one."
        )
    show_description(data.describe())


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
