"""``asft-lightning configs``: the package's own configs, listed, and copied to be changed."""

import shutil

from asft_lightning.commands.ways_on import line
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import require_absent, user_path, writing
from asft_lightning.runtime.named_configs import CONFIGS, about, config_names
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.runtime.terminal import say

EXAMPLES = ("configs", "configs copy methods/activation my-configs")


def list_configs() -> None:
    """List the configs that --config takes by name, with what each says of itself."""
    show(Sheet(["name", "what it says"], [[name, about(name)] for name in config_names()], texts=2))
    say("Take one by name: asft-lightning fit --config NAME; copy one to change it: asft-lightning configs copy NAME DIR")


def copy(name: str, folder: str) -> None:
    """Copy a config, to be changed.

    Args:
        name: Of a config, e.g. quickstart or methods/asft; or of a folder of them, e.g. methods.
        folder: Where to; a file of a folder is copied into one of that name.
    """
    names = [known for known in config_names() if known == name or known.startswith(f"{name}/")]
    if not names:
        raise ConfigurationError(
            f"a config to copy must be one of this package's own, got {name!r}. `asft-lightning configs` lists them."
        )
    targets = {known: user_path(folder) / f"{known}.yaml" for known in names}
    for target in targets.values():
        require_absent(target)
    for known, target in targets.items():
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CONFIGS / f"{known}.yaml", target)
        say(f"written to {target}")
    if len(targets) == 1:
        say(f"to use it: {line('fit', '--config', *targets.values())}")


COMMAND = {"list": list_configs, "copy": copy}
