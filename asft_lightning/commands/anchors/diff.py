"""``asft-lightning anchors diff``: an adapter, measured against a file of anchors."""

from pathlib import Path

from asft_lightning.anchors import AnchorSet, measure_adapter
from asft_lightning.runtime.reading import readable
from asft_lightning.runtime.terminal import say


def diff(anchors: str, adapter: str) -> None:
    """Compare a trained adapter with anchors: how much of its update is aligned, orthogonal, and what it would cost.

    Args:
        anchors: A file of anchors, or a folder or hub repository with an anchors.safetensors.
        adapter: A LoRA adapter in PEFT's format: a folder or a hub id.
    """
    loaded = AnchorSet.load(anchors)
    say(str(readable(Path(adapter), lambda: measure_adapter(loaded, adapter), "an adapter")))


COMMAND = diff
