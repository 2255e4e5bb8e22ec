"""RunFolder: the names of all files in a run's folder, known here and nowhere else."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from asft_lightning.runs.moment import Moment

if TYPE_CHECKING:  # a report reads what runs left without Lightning
    from lightning.pytorch import Trainer

ANCHORS = "anchors.safetensors"
"""Of anchors in a run's folder, and in a folder or repository of anchors alone."""
PROJECTION = "projection.json"
"""What became of each layer, in a run's folder and beside a projected adapter."""
LAST = "last"
"""What the checkpoint is called that a run goes on from."""
_LOGS = ("config.yaml", "hparams.yaml", "metrics.csv")
"""What every command writes, ``validate`` and ``test`` into a folder of that name."""
_REHEARSAL = "fast_dev_run"
"""In a run's folder, what ``trainer.fast_dev_run`` writes: a rehearsal must not touch what a finished run left."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: ``trainer.default_root_dir``, whatever the loggers.

    Args:
        path: Where it is; it need not be there yet.
    """

    path: Path

    @classmethod
    def of(cls, trainer: "Trainer") -> Self:
        """The folder of the run that a trainer is at work on; of a ``fast_dev_run``, one of its own within that."""
        folder = Path(trainer.default_root_dir)
        return cls(folder / _REHEARSAL if is_rehearsal(trainer) else folder)

    @property
    def summary(self) -> Path:
        """What was measured, and what the run was: :class:`Summary`."""
        return self.path / "summary.json"

    @property
    def config(self) -> Path:
        """The whole configuration, as LightningCLI writes it."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """What a run goes on from, a folder; where a ``ModelCheckpoint`` says no other."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """What every fit of the command line ends with, but where it is told to keep none, or others."""
        return self.checkpoints / f"{LAST}.ckpt"

    @property
    def data(self) -> Path:
        """What was trained on."""
        return self.path / "data.json"

    @property
    def audit(self) -> Path:
        """What an audit of the training rows was asked, and how many it flagged."""
        return self.path / "audit.json"

    @property
    def audited_rows(self) -> Path:
        """Every flagged row, with its scores and what becomes of it, a JSON object a line."""
        return self.path / "audit.jsonl"

    @property
    def audit_picture(self) -> Path:
        """The scores of all rows, drawn."""
        return self.path / "audit.png"

    @property
    def adapter(self) -> Path:
        """The adapter in PEFT's format, a folder."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The whole model as Transformers keeps it, a folder; where its own weights were trained."""
        return self.path / "model"

    @property
    def merged(self) -> Path:
        """The whole model with the adapter merged in, as ``serve`` gives it to a server, a folder."""
        return self.path / "merged"

    @property
    def judge(self) -> Path:
        """The judge that was trained, a checkpoint of Transformers, a folder."""
        return self.path / "judge"

    @property
    def anchors(self) -> Path:
        """What the run was protected with."""
        return self.path / ANCHORS

    @property
    def answers(self) -> Path:
        """The aligned model's answers that the run was held to."""
        return self.path / "answers.safetensors"

    @property
    def safety_layers(self) -> Path:
        """The layers that :class:`SPPFT` found and did not train, and what they were found by."""
        return self.path / "safety_layers.json"

    @property
    def safety_module(self) -> Path:
        """What :class:`SaLoRA` keeps its update clear of, and what it began with."""
        return self.path / "safety_module.safetensors"

    @property
    def projection(self) -> Path:
        """What a projection made of each layer."""
        return self.path / PROJECTION

    @property
    def alignment(self) -> Path:
        """The figures of every layer's update, a table: :class:`AlignmentLog`."""
        return self.path / "alignment.csv"

    @property
    def alignment_picture(self) -> Path:
        """The same after training, drawn."""
        return self.path / "alignment.png"

    @property
    def scored(self) -> Path:
        """The answers of every scoring, a folder of :meth:`generations`."""
        return self.path / "generations"

    @property
    def log(self) -> Path:
        """What a run of a comparison says on its way, after its command line."""
        return self.path / "log.txt"

    def generations(self, name: str, moment: Moment) -> Path:
        """Every answer of one scoring with what was found of it, a JSON object a line."""
        return self.scored / f"{name}-{moment}.jsonl"

    def spoilt_batch(self, rank: int) -> Path:
        """The rows of a batch whose loss was no number, a JSON object a line."""
        return self.path / f"spoilt-batch-rank{rank}.jsonl"

    def products(self) -> list[Path]:
        """All that a run of the command line leaves; but for ``log``, which is begun before the run is.

        Checkpoints are the first: a folder without them is none that a run goes on in.
        """
        trained = (
            self.checkpoints,
            *self.path.glob("hpc_ckpt_*.ckpt"),
            self.adapter,
            self.model,
            self.merged,
            self.judge,
        )  # the second are Lightning's, of SLURM
        held = (self.anchors, self.answers, self.safety_layers, self.safety_module)
        told = (self.summary, self.data, self.projection, self.scored)
        audited = (self.audit, self.audited_rows, self.audit_picture)
        watched = (self.alignment, self.alignment_picture, *self.path.glob("spoilt-batch-rank*.jsonl"))
        logs = [self.path / command / name for command in ("", "validate", "test") for name in _LOGS]
        return [*trained, *held, *told, *audited, *watched, *logs]


def is_rehearsal(trainer: "Trainer") -> bool:
    """Whether a run only tries everything once (``fast_dev_run``), and must leave a finished run as it was."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
