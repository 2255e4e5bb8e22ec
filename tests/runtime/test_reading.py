"""Files for torch that are packed: kilobytes that would come to gigabytes."""

import zipfile

import pytest
import torch

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.checkpoint_io import WholeCheckpointIO
from asft_lightning.runtime.reading import require_unpacked
from asft_lightning.weights.files import require_sound, unpickle


@pytest.fixture
def bomb(tmp_path):
    """What torch takes for a pickle of zeros, a thousandth of their size."""
    plain, path = tmp_path / "plain.bin", tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": {"w": torch.zeros(10**5)}, "pytorch-lightning_version": "2.6"}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
    return path


def test_the_bomb_is_a_live_one(bomb):
    assert bomb.stat().st_size < 10_000
    assert torch.load(bomb, weights_only=True)["state_dict"]["w"].numel() == 10**5


@pytest.mark.parametrize(
    "read",
    [unpickle, lambda path: require_sound(path.parent), WholeCheckpointIO().load_checkpoint],
    ids=["", "folder", "run"],
)
def test_file_that_is_packed(bomb, read):
    with pytest.raises(
        ConfigurationError, match=r"must be as torch.save writes it, and its \d+ bytes would come to 40\d+ unp"
    ):
        read(bomb)


def test_archive_that_is_none(tmp_path):
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x09"))  # its list of what it holds
    with pytest.raises(ConfigurationError, match=r"cannot be read as weights .* It is damaged: get it again"):
        require_unpacked(path)


def test_what_torch_writes_is_read(tmp_path):
    torch.save({"w": torch.arange(3)}, tmp_path / "x.bin")
    torch.save({"w": torch.arange(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("x", "old"):
        assert unpickle(tmp_path / f"{name}.bin")["w"].tolist() == [0, 1, 2]
