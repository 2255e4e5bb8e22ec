"""``asft-lightning fit|validate|test``: LightningCLI's, with what every module of a run shares named once."""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.parsing import lightning_hasattr

from asft_lightning.callbacks.run_cost import RunCost
from asft_lightning.chat.dates import today
from asft_lightning.chat.template import Template
from asft_lightning.commands.export import card_of
from asft_lightning.commands.fit_arguments import as_parsed
from asft_lightning.commands.run_parser import CHECKPOINTS, RunParser
from asft_lightning.commands.ways_on import after_training
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules import FineTuner, LoRAFineTuner
from asft_lightning.modules.unfit_callbacks import require_fit_callbacks
from asft_lightning.runs.folder import LAST, RunFolder, is_rehearsal
from asft_lightning.runs.logger import RunLogger
from asft_lightning.runs.owning import owned, set_aside
from asft_lightning.runs.saved_config import SavedConfig
from asft_lightning.runs.tracking import log_products
from asft_lightning.runtime.checkpoint_io import WholeCheckpointIO
from asft_lightning.runtime.exits import NO_CHECKPOINT, ending_in_one_line
from asft_lightning.runtime.files import user_path, write_atomically
from asft_lightning.runtime.named_configs import with_found_configs
from asft_lightning.runtime.own_modules import make_named_importable
from asft_lightning.runtime.plain_data import make_classes_where_they_belong, texts_of
from asft_lightning.runtime.shown_progress import progress_of
from asft_lightning.runtime.terminal import say
from asft_lightning.runtime.threads import take_threads
from asft_lightning.runtime.trainer_callbacks import callbacks_of
from asft_lightning.runtime.yaml_files import read_yaml
from asft_lightning.weights.pretrained import Pretrained


class AsFTCLI(LightningCLI):
    """``pretrained`` and ``template`` stand at the top of a config and reach both model and data.

    So files for a model, a data set, a method and a trainer combine in any order.
    """

    def __init__(self, args: Sequence[str] | None = None, **kwargs: Any) -> None:
        make_classes_where_they_belong()
        make_named_importable(sys.argv[1:] if args is None else args)
        super().__init__(
            model_class=FineTuner,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # the model's own argument: here parameters would not exist yet
            save_config_callback=SavedConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"default_root_dir": "runs/asft", "callbacks": [RunCost()]},
            seed_everything_default=0,
            parser_class=RunParser,
            args=None if args is None else as_parsed(args),
            **{"parser_kwargs": {"prog": "asft-lightning"}, **kwargs},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, but for predict, which no module of ours implements."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The arguments that belong to no single module."""
        parser.add_argument("--pretrained", type=Pretrained, help="The checkpoints of the run.")
        parser.add_argument(
            "--threads", type=int | None, default=None, help="CPU threads of a process; null for PyTorch's own choice."
        )
        parser.add_argument("--template", type=Template, default=Template(), help="How rows are written for the model.")
        for shared in ("pretrained", "template"):
            for module in ("model", "data"):
                parser.link_arguments(shared, f"{module}.init_args.{shared}")

    def _parse_ckpt_path(self) -> None:
        """Read the checkpoint before a model is loaded; Lightning's own would take class paths and settings from it."""
        command = self.config.get("subcommand")
        path = self.config[command].get("ckpt_path") if command else None
        if path and path.startswith("~"):
            path = self.config[command]["ckpt_path"] = str(user_path(path))
        if path and Path(path).is_file():
            WholeCheckpointIO().load_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Take the threads and the date; and a checkpoint that is not there must show before a model is loaded."""
        if (threads := self._get(self.config, "threads")) is not None:
            if threads < 1:
                raise ConfigurationError(f"threads must be 1 or more, got {threads}. Leave it out for PyTorch's own choice.")
            take_threads(threads)
        path = self._get(self.config, "ckpt_path")
        if self._get(self.config, "weights_only") is False:
            raise ConfigurationError(
                "weights_only must be true or null, got false: of a checkpoint plain data is read, and no object. "
                "Leave it out."
            )
        self._fix_date(path)
        if path and path not in CHECKPOINTS and "://" not in path and not Path(path).exists():
            raise ConfigurationError(
                f"ckpt_path must be a checkpoint file or one of {', '.join(CHECKPOINTS)}, and {path} does not exist. "
                "Leave it out to start anew."
            )

    def _fix_date(self, checkpoint: str | None) -> None:
        """One date for model and data, kept in a run's ``config.yaml``: of the run that is gone on from, or else today's."""
        template = self._get(self.config, "template")
        if template.date is not None:
            return
        folders = [Path(self._get(self.config, "trainer").default_root_dir)] if checkpoint else []
        if checkpoint and Path(checkpoint).is_file():  # in its run's folder, or in `checkpoints` there
            folders = [*Path(checkpoint).absolute().parents[:2], *folders]
        day = next(filter(None, map(_date_of, map(RunFolder, folders))), None) or today()
        modules = [self._get(self.config, name) for name in ("model", "data")]
        settings = [module.get("init_args.template") for module in modules if module is not None]
        for written in [template, *(written for written in settings if written is not None)]:
            written.date = day

    def before_fit(self) -> None:
        """Go on with the run that is in the folder, or set it aside."""
        settings = self._get(self.config_init, "ckpt_path")
        if settings in ("last", "auto"):
            settings = self.config_init["fit"]["ckpt_path"] = self._last_checkpoint(settings)
        # Under SLURM Lightning goes on by itself with what it wrote when it was taken off the machine.
        is_requeued = SLURMEnvironment.detect() and self.trainer._checkpoint_connector._hpc_resume_path is not None
        is_resumed = is_requeued or (settings is not None and self._is_own(settings))
        for logger in self.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.resumed = is_resumed
        if self.trainer.is_global_zero and not (is_resumed or is_rehearsal(self.trainer)):
            folder, read = RunFolder.of(self.trainer), ("config", "pretrained", "model", "data")
            if aside := set_aside(folder, texts_of([self._get(self.config, part) for part in read])):
                say(f"{folder.path} held an earlier run, which is in {aside} from now on")

    def _is_own(self, checkpoint: str) -> bool:
        """Whether it is of the run in this folder: of another one nothing here goes on."""
        if checkpoint in CHECKPOINTS:
            return True
        savers = [saver.dirpath for saver in self.trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        folders = [str(RunFolder.of(self.trainer).path), *(str(folder) for folder in savers if folder)]
        if "://" in checkpoint:
            return any(checkpoint.startswith(f"{folder.rstrip('/')}/") for folder in folders)
        places = [Path(os.path.realpath(folder)) for folder in folders]
        return any(Path(os.path.realpath(user_path(checkpoint))).is_relative_to(place) for place in places)

    def after_fit(self) -> None:
        """Say what is there, and what to type next."""
        folder = RunFolder.of(self.trainer)
        if not self.trainer.is_global_zero or is_rehearsal(self.trainer):
            return
        if folder.model.is_dir():
            say(f"model: {folder.model}, for Transformers as it is; what was measured: {folder.summary}")
        if folder.judge.is_dir():
            say(f"judge: {folder.judge}; to ask it in a run: judge: ClassifierJudge, with model: {folder.judge}")
        if folder.adapter.is_dir():
            if isinstance(self.model, LoRAFineTuner):  # PEFT's own card is blank, and the last scores came after it
                text = card_of(folder, self.model.pretrained, self.model.template)
                write_atomically(folder.adapter / "README.md", text)
            say(
                f"adapter: {folder.adapter}; what was measured: {folder.summary}",
                *after_training(folder.path),
            )
        log_products(self.trainer)

    def _last_checkpoint(self, settings: str) -> str | None:
        """``last`` if there is one: Lightning would start anew where there is none."""
        has_checkpoint = self._has_checkpoint()
        if not has_checkpoint and settings == "last":
            raise ConfigurationError(
                f"--ckpt_path last needs a last checkpoint, and {self.trainer.default_root_dir} has none. Add a "
                "ModelCheckpoint with save_last: true, as --config trainer/resumable does; `auto` begins without one."
            )
        return "last" if has_checkpoint else None

    def _has_checkpoint(self) -> bool:
        """Whether there is one that `last` and `auto` go on from."""
        savers = [saver for saver in self.trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        return any(saver._find_last_checkpoints(self.trainer) for saver in savers)

    def _run_subcommand(self, subcommand: str) -> None:
        """What writes into the run's folder has it to itself; of several ranks the first, for all."""
        is_writer = subcommand in ("fit", "test") and self.trainer.is_global_zero
        with owned(RunFolder.of(self.trainer)) if is_writer else nullcontext():
            try:
                super()._run_subcommand(subcommand)
            except ValueError as error:
                if not str(error).startswith(f"`.{subcommand}(ckpt_path="):
                    raise
                raise ConfigurationError(  # Lightning's word for `best` and the like, where there is none
                    f"ckpt_path must say a checkpoint that is there, and Lightning says: {error} Give a file of "
                    f"{RunFolder.of(self.trainer).checkpoints}, or last."
                ) from error
            except BaseException as error:
                if subcommand == "fit" and not self._has_checkpoint():
                    error.add_note(NO_CHECKPOINT)
                raise

    def after_validate(self) -> None:
        """A run without held-out rows has measured nothing.

        Raises:
            ConfigurationError: If it has none.
        """
        if not sum(self.trainer.num_val_batches):
            raise ConfigurationError("validate needs rows that are held out, and there are none. Add --data.val_rows 100.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """One run folder, without version numbers: what a resumed run looks for is where it was, whatever the logger.

        Raises:
            ConfigurationError: If Lightning does not take the settings.
        """
        settings, command = self._get(self.config_init, "trainer"), self.subcommand or "fit"
        if settings["logger"] in (None, True) and not settings["barebones"]:
            folder = Path(settings["default_root_dir"]) / ("" if command == "fit" else command)  # the fit's figures stay
            kwargs["logger"] = RunLogger(folder, resumed=command == "fit" and bool(self._get(self.config, "ckpt_path")))
        self.trainer_defaults["callbacks"] += progress_of(settings)
        if command == "fit" and _saves_by_default(settings):
            # One file, of the last epoch's end or of where the run was ended; Lightning's own would not save that.
            own = ModelCheckpoint(filename=LAST, enable_version_counter=False, save_on_exception=True)
            self.trainer_defaults["callbacks"] += [own]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigurationError(
                f"the trainer's settings must go together, and Lightning says: {error} Change them, or set them to null."
            ) from error
        for saver in trainer.checkpoint_callbacks:
            if isinstance(saver, ModelCheckpoint) and saver.dirpath is None:  # else where the first logger writes
                saver.dirpath = str(RunFolder.of(trainer).checkpoints)
        _require_rate_to_find(trainer, self.model)
        if command == "fit":
            require_fit_callbacks(trainer)  # before an earlier run is set aside
        return trainer


def _saves_by_default(settings: Any) -> bool:
    """Whether a run is to have a saver that nobody asked for, nor forbade: at an epoch's end, and where the run is ended."""
    given = settings["callbacks"]
    chosen = any(isinstance(one, ModelCheckpoint) for one in (given if isinstance(given, list) else [given]))
    return not chosen and settings["enable_checkpointing"] is not False and not settings["barebones"]


def _require_rate_to_find(trainer: Trainer, module: LightningModule) -> None:
    for finder in callbacks_of(trainer, LearningRateFinder):
        if not any(lightning_hasattr(module, name) for name in (finder._attr_name or "lr", "learning_rate")):
            raise ConfigurationError(
                f"LearningRateFinder sets a module's `lr`, and {type(module).__name__} has none: the rate is an argument of "
                "its optimizer. Leave the callback out, and try rates with `asft-lightning compare`."
            )


def _date_of(run: RunFolder) -> str | None:
    """The date that a run began with, where its folder tells: its checkpoint would refuse another."""
    try:
        return str(read_yaml(run.config, "")["template"]["date"] or "") or None
    except (ConfigurationError, LookupError, TypeError):
        return None


def run(arguments: list[str]) -> None:
    """Run one of LightningCLI's subcommands.

    Args:
        arguments: What follows ``asft-lightning`` on the command line.
    """
    AsFTCLI(with_found_configs(arguments))


def launch(arguments: list[str]) -> None:
    """The same in a process of its own, which ends as the command line does."""
    with ending_in_one_line():
        run(arguments)
