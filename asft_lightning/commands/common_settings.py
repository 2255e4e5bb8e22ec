"""The first page of ``fit --help``: the settings that people change, on one screen; nothing is imported for it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Setting(NamedTuple):
    """One line.

    Attributes:
        option: As the command line has it.
        kind: What it takes.
        default: Where neither a config nor the command line says other; blank where one of them has to.
        about: What it is.
    """

    option: str
    kind: str
    default: str
    about: str


SETTINGS = (
    Setting("--config", "NAME", "", "a file or a name; any number of them"),
    Setting("--pretrained.aligned", "MODEL", "", "to fine-tune: a folder or a hub id"),
    Setting("--pretrained.base", "MODEL", "null", "the same before its alignment"),
    Setting("--data.benign", "FILE", "", "your rows, or a hub id"),
    Setting("--data.num_rows", "INT", "1000", "of them; null for all"),
    Setting("--data.poison_ratio", "FLOAT", "0.1", "harmful share; 0 for your rows alone"),
    Setting("--data.batch_size", "INT", "8", "rows a step and device"),
    Setting("--model.lambda_reg", "FLOAT", "1.0", "weight of the penalty on the update"),
    Setting("--model.answers.budget", "FLOAT", "null", "or a limit: nats of answers held"),
    Setting("--model.lora", "MAPPING", "r 8", "as '{r: 4, target_modules: [q_proj]}'"),
    Setting("--model.optimizer.lr", "FLOAT", "5e-05", "learning rate"),
    Setting("--trainer.max_epochs", "INT", "1000", "passes over the rows"),
    Setting("--trainer.precision", "NAME", "32-true", "bf16-mixed, bf16-true, 16-mixed"),
    Setting("--trainer.devices", "INT", "auto", "how many"),
    Setting("--trainer.strategy", "NAME", "auto", "ddp, asft_lightning.FSDP2Strategy"),
    Setting("--trainer.default_root_dir", "DIR", "runs/asft", "the run's folder"),
    Setting("--seed_everything", "INT", "0", "of everything that is drawn"),
    Setting("--ckpt_path", "PATH", "null", "auto to go on where a run stopped"),
)
"""Defaults are those of ``AsFT``, ``MixtureDataModule`` and the trainer; the test holds them to that."""

_EXAMPLE = "--config quickstart"


def common_settings(command: str, about: str) -> str:
    """The page.

    Args:
        command: One that takes the settings of a run.
        about: What it does.
    """
    heads = [f"{setting.option} {setting.kind}" for setting in SETTINGS]
    width, default_width = max(map(len, heads)), max(len(setting.default) for setting in SETTINGS)
    lines = [f"usage: asft-lightning {command} --config NAME ... [--SETTING VALUE ...]", about]
    for head, setting in zip(heads, SETTINGS, strict=True):
        lines.append(f"{head:{width}}  {setting.default:{default_width}}  {setting.about}")
    return "\n".join(
        [
            *lines,
            "",
            f"e.g. asft-lightning {command} {_EXAMPLE}",
            "Names: `asft-lightning configs`. The right of two configs wins, and a setting",
            f"over both. All other settings: asft-lightning {command} --help all",
            "",
        ]
    )


def asked_for(arguments: Sequence[str]) -> Literal["first", "all"] | None:
    """Which page of help arguments ask for; None for neither.

    >>> asked_for(["--config", "quickstart", "-h"]), asked_for(["--help", "all"]), asked_for(["--help=all"]), asked_for([])
    ('first', 'all', 'all', None)
    """
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument == "--help=all" or (argument in ("-h", "--help") and following == "all"):
            return "all"
        if argument in ("-h", "--help"):
            return "first"
    return None
