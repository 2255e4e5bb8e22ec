"""``asft-lightning audit``: what the aligned model says of the rows that a run would train on, without a run."""

from dataclasses import replace

from asft_lightning.audit import audit_data
from asft_lightning.commands.fit import AsFTCLI
from asft_lightning.commands.ways_on import line
from asft_lightning.data import Audit, MixtureDataModule
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.owning import owned
from asft_lightning.runtime.named_configs import with_found_configs
from asft_lightning.runtime.terminal import say

EXAMPLES = (
    "audit --config quickstart",
    "audit --config models/qwen-2-7b-instruct --config data/alpaca --config methods/sft --config trainer/single",
)
_HELP = {"prog": "asft-lightning audit", "epilog": f"e.g. asft-lightning {EXAMPLES[0]}"}


class _WithoutRun(AsFTCLI):
    """The arguments of fit, of which nothing is trained."""

    def _parse_ckpt_path(self) -> None:
        """There is no checkpoint to go on from."""


def run(arguments: list[str]) -> None:
    """Audit the rows that a run of these arguments would train on, into a folder ``audit`` of that run's folder.

    Args:
        arguments: Those of fit.
    """
    cli = _WithoutRun(with_found_configs(arguments), run=False, parser_kwargs=_HELP)
    data = cli.datamodule
    if not isinstance(data, MixtureDataModule):
        raise ConfigurationError(f"audit needs the rows of a MixtureDataModule, got {type(data).__name__}. Set data to one.")
    folder = RunFolder(RunFolder.of(cli.trainer).path / "audit")
    with owned(folder):
        folder.audit.unlink(missing_ok=True)  # asked for again, it is said again; scores are kept
        audit = replace(data.audit or Audit(), action="report")
        report = audit_data(data, audit, folder, cli.trainer, cli.model.trained_layers)
    assert report is not None
    report.show()
    drawn = f", all scores in {folder.audit_picture.name}" if folder.audit_picture.is_file() else ""
    say(f"written to {folder.path}: the flagged rows in {folder.audited_rows.name}{drawn}")
    say(_next(arguments, report.counts["flagged"]))


def _next(arguments: list[str], flagged: int) -> str:
    """The line to type next."""
    if flagged:
        return f"to train without them: {line('fit', *arguments, '--data.audit.action', 'drop')}"
    return f"to train: {line('fit', *arguments)}"
