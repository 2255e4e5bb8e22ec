"""``asft-lightning describe``: the rows that a run would train on, without a run."""

from lightning.pytorch import LightningDataModule

from asft_lightning.commands.fit import AsFTCLI
from asft_lightning.commands.ways_on import line
from asft_lightning.data import MixtureDataModule, show_description
from asft_lightning.data.loader_description import describe_loaders, show_loaders
from asft_lightning.runtime.named_configs import with_found_configs
from asft_lightning.runtime.terminal import say

EXAMPLES = (
    "describe --config quickstart",
    "describe --config models/qwen-2-7b-instruct --config data/agnews --config methods/asft",
)
_HELP = {"prog": "asft-lightning describe", "epilog": f"e.g. asft-lightning {EXAMPLES[0]}"}


class _DataOnly(AsFTCLI):
    """The arguments of fit, of which no trainer comes about: this machine need not be the one to train on."""

    def instantiate_classes(self) -> None:
        """The data module alone."""
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule: LightningDataModule = self._get(self.config_init, "data")


def run(arguments: list[str]) -> None:
    """Show the rows that a run of these arguments would train on.

    Args:
        arguments: Those of fit.
    """
    data = _DataOnly(with_found_configs(arguments), run=False, parser_kwargs=_HELP).datamodule
    if isinstance(data, MixtureDataModule):
        show_description(data.describe())
    else:
        show_loaders(describe_loaders(data))
    say("", f"to train on them: {line('fit', *arguments)}")
    if isinstance(data, MixtureDataModule):
        say(f"to hear what the aligned model says of them: {line('audit', *arguments)}")
