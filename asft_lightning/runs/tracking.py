"""What loggers are told of a run beside its figures: what it was set to, and what it left behind."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from asft_lightning.runs.facts import facts_of
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary
from asft_lightning.runtime.files import write_json

_NO_SETTINGS = ("config", "versions", "ended", "scoring_seconds")
"""Facts that are none: what is chosen of them stands among the others."""


class Tracking(Callback):
    """Tells every logger a run's hyper-parameters when it begins; every module of this package has it.

    They are what the run's ``summary.json`` says of method and data, the learning rate, the batch size and how long it is to
    train, as plain names and values: ``lambda_reg``, ``anchors.0.class``, ``lora.r``, ``data_sha256``, … So does TensorBoard
    show them as hparams, beside the last of each score, MLflow as parameters, Weights & Biases as its config, and
    Lightning's CSV logger in ``hparams.yaml``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """By now optimizer and anchors are there."""
        if not (trainer.is_global_zero and trainer.loggers):
            return
        scores = Summary.read(RunFolder.of(trainer)).scores
        known = {name: score.before for name, score in scores.items() if score.before is not None}
        for logger in trainer.loggers:
            # TensorBoard follows the figures that it is told of here; of none it would show a -1 that stands for nothing.
            followed = [known] if known and isinstance(logger, TensorBoardLogger) else []
            _attempt(
                logger,
                "the hyper-parameters",
                lambda logger=logger, followed=followed: logger.log_hyperparams(  # type: ignore[misc]
                    hyperparameters(trainer, pl_module), *followed
                ),
            )


def hyperparameters(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What a run is set to, {name with dots: number, text or truth}; what is not set is left out."""
    facts = {name: fact for name, fact in facts_of(trainer, module).plain().items() if name not in _NO_SETTINGS}
    data, group = getattr(trainer, "datamodule", None), trainer.optimizers[0].param_groups[0]
    schedule = {
        "learning_rate": group.get("initial_lr", group.get("lr")),
        "batch_size": getattr(data, "batch_size", None),
        "poison_ratio": getattr(data, "poison_ratio", None),
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
    }
    return dict(_flat({**facts, **schedule}))


def log_products(trainer: Trainer) -> None:
    """Hand a finished run's pictures, answers, adapter and summary to the loggers that keep such things.

    TensorBoard and Weights & Biases show the pictures; MLflow and Weights & Biases keep all of it as artifacts. Of training
    rows nothing is handed on, nor a model whose whole weights were trained, nor the configuration, in which a secret prompt
    or a password may stand.
    """
    folder = RunFolder.of(trainer)
    pictures = [path for path in (folder.alignment_picture, folder.audit_picture) if path.is_file()]
    with TemporaryDirectory() as shared:
        summary = Path(shared) / folder.summary.name
        if folder.summary.is_file():
            write_json(summary, without_configuration(folder.summary))
        kept = [path for path in (summary, folder.scored, folder.adapter, *pictures) if path.exists()]
        for logger in trainer.loggers:
            for kind, log in _LOGS.items():
                if isinstance(logger, kind):
                    _attempt(logger, "what the run left", lambda logger=logger, log=log: log(logger, pictures, kept))  # type: ignore[misc]


def without_configuration(summary: Path) -> dict[str, Any]:
    """What a summary says, but for the run's whole configuration."""
    content: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    content["run"] = {name: fact for name, fact in content["run"].items() if name != "config"}
    return content


def _to_tensorboard(logger: TensorBoardLogger, pictures: Sequence[Path], kept: Sequence[Path]) -> None:
    if not pictures:
        return
    from matplotlib.image import imread  # what drew them

    for picture in pictures:
        logger.experiment.add_image(picture.stem, imread(picture), dataformats="HWC")
    logger.experiment.flush()


def _to_mlflow(logger: MLFlowLogger, pictures: Sequence[Path], kept: Sequence[Path]) -> None:
    for path in kept:
        if path.is_dir():
            logger.experiment.log_artifacts(logger.run_id, str(path), path.name)
        else:
            logger.experiment.log_artifact(logger.run_id, str(path))


def _to_wandb(logger: WandbLogger, pictures: Sequence[Path], kept: Sequence[Path]) -> None:
    import wandb

    for picture in pictures:
        logger.log_image(picture.stem, [str(picture)])
    artifact = wandb.Artifact(f"run-{logger.experiment.id}", "model")
    for path in kept:
        if path.is_dir():
            artifact.add_dir(str(path), path.name)
        else:
            artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact)


_LOGS: Mapping[type[Logger], Callable[[Any, Sequence[Path], Sequence[Path]], None]] = {
    TensorBoardLogger: _to_tensorboard,
    MLFlowLogger: _to_mlflow,
    WandbLogger: _to_wandb,
}


def _attempt(logger: Logger, what: str, log: Callable[[], None]) -> None:
    """A tracker that is out of reach costs no run."""
    try:
        log()
    except Exception as error:  # each tracker raises its own
        rank_zero_warn(f"{type(logger).__name__} did not take {what} ({type(error).__name__}: {error}). The run goes on.")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots, and plain values: a list of plain values is one text."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple | set) and any(isinstance(part, Mapping) for part in value):
        yield from _flat(dict(enumerate(value)), name)
    elif isinstance(value, list | tuple | set):
        yield name, ", ".join(map(str, value))
    elif value is not None:
        yield name, value if isinstance(value, bool | int | float | str) else str(value)
