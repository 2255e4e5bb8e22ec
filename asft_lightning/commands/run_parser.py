"""The parser of ``fit``, ``validate`` and ``test``: Lightning's, with short errors and help that is true of this package."""

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from asft_lightning.runtime.short_errors import ShortErrors

CHECKPOINTS = ("last", "auto", "best", "hpc")
"""What stands for a path of ``ckpt_path``: ``auto`` is ours, the last if there is one; the others are Lightning's."""

_TITLES = {
    "trainer": "Lightning's Trainer",
    "model": "The method: what is trained, and how it is protected",
    "data": "The rows",
}
_HELP = {
    "ckpt_path": f"A checkpoint file, or one of {', '.join(CHECKPOINTS)}: what is gone on from, or scored. auto is "
    "the last one that the run's folder has, and a new run where it has none.",
    "weights_only": "Nothing to set: of a checkpoint plain data is read, and no object.",
}


class RunParser(ShortErrors, LightningArgumentParser):
    """With the first lines of classes replaced where they say nothing of the argument."""

    help_option = "--help all"

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *args: Any, **kwargs: Any) -> list[str]:
        """Lightning's, under a title of ours."""
        added = super().add_lightning_class_args(lightning_class, nested_key, *args, **kwargs)
        if self.groups and nested_key in _TITLES:
            self.groups[nested_key].title = _TITLES[nested_key]
        return added

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """A Trainer's method, with what its arguments mean here."""
        added: list[str] = super().add_method_arguments(*args, **kwargs)
        for action in self._actions:
            action.help = _HELP.get(action.dest, action.help)
        return added
