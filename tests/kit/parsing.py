"""The parser of ``asft-lightning fit``, without instances and without a run; configs by the package's own names."""

import pytest

from asft_lightning.commands.fit import AsFTCLI
from asft_lightning.runtime.named_configs import find_config, with_found_configs


class Parsed(AsFTCLI):
    """The parser, without instances and without a run."""

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


def fit_parser():
    """Of one config that is parsed on the way; what the command line sets in the environment is put back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        return Parsed(["fit", "--config", str(find_config("quickstart"))])._subcommand_parsers["fit"]


def parsed(parser, *names, settings=()):
    """The configuration that these configs come to, in this order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        return parser.parse_args(with_found_configs([*(f"--config={name}" for name in names), *settings]))
