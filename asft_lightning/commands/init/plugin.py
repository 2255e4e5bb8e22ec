"""``asft-lightning init plugin``: a package with a judge, an anchor and a source of one's own, and a test that passes."""

import re
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import require_absent, user_path, whole_folder
from asft_lightning.runtime.terminal import say

EXAMPLES = ("init plugin my-judges", "init plugin my-judges --folder ~/work")
_TEMPLATE = Path(__file__).parent / "template"
_SUFFIX = ".in"
"""Of the template's files: no tool takes them for code of this package."""


def plugin(name: str, folder: str = ".") -> None:
    """Write a folder with a judge, an anchor and a source to change, a config that uses them, and a test that passes.

    Args:
        name: Of the package, e.g. my-judges; its module has _ for -.
        folder: Where to put it.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]+", module) or iskeyword(module):
        raise ConfigurationError(
            f"a plug-in's name must be lower-case letters, digits and -, and no word of Python, got {name!r}. Take "
            "my-judges."
        )
    if find_spec(module) is not None:
        raise ConfigurationError(
            f"a plug-in's name must be new, and a module {module} can be imported already. Take another."
        )
    target = user_path(folder) / name
    require_absent(target)
    with whole_folder(target) as new:
        for file in sorted(_TEMPLATE.rglob(f"*{_SUFFIX}")):
            place = file.relative_to(_TEMPLATE).as_posix().removesuffix(_SUFFIX).replace("module", module)
            (new / place).parent.mkdir(parents=True, exist_ok=True)
            text = Template(file.read_text(encoding="utf-8")).substitute(name=name, module=module)
            (new / place).write_text(text, encoding="utf-8")
    say(
        f"written to {target}",
        f"to try it: cd {target} && pytest && asft-lightning fit --config config.yaml",
        "to use it anywhere: pip install -e . in that folder",
    )


COMMAND = plugin
