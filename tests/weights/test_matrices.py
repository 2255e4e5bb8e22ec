import json
import pickle
from pathlib import Path

import pytest
import torch
from kit.references import randn
from safetensors.torch import save_file

from asft_lightning.errors import AnchorError, ConfigurationError
from asft_lightning.weights.matrices import open_weights
from asft_lightning.weights.targets import Target

TARGET = Target("model.layers.0.q_proj", (4, 6))
NAME = f"{TARGET.name}.weight"


def tensors():
    return {NAME: randn(4, 6), "model.layers.0.q_proj.bias": randn(4)}


def write_sharded(folder: Path, suffix: str = "safetensors") -> dict[str, torch.Tensor]:
    """Two shards and their index, as Transformers writes them."""
    stem, content = {"safetensors": "model", "bin": "pytorch_model"}[suffix], tensors()
    write = {"safetensors": save_file, "bin": torch.save}[suffix]
    files = {name: f"{stem}-{i:05d}-of-00002.{suffix}" for i, name in enumerate(content, start=1)}
    for name, file in files.items():
        write({name: content[name]}, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return content


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("as_type", [str, Path])
def test_shards_are_read_through_their_index(tmp_path, suffix, as_type):
    expected = write_sharded(tmp_path, suffix)
    assert torch.equal(open_weights(as_type(tmp_path)).matrix(TARGET), expected[NAME])


def test_safetensors_come_before_pickles(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert torch.equal(open_weights(tmp_path).matrix(TARGET), tensors()[NAME])


def test_a_transposed_weight_is_turned(tmp_path):
    target = Target(TARGET.name, (6, 4), transposed=True)
    assert torch.equal(open_weights(tensors()).matrix(target), tensors()[NAME].T)


def test_an_absent_tensor_is_a_key_error_by_name():
    with pytest.raises(KeyError, match=r"lm_head"):
        open_weights(tensors())["lm_head.weight"]


def test_an_absent_weight_names_module_checkpoint_and_remedy():
    expected = rf"model\.layers\.9\.q_proj: no weight of this name in the given tensors \(2 tensors, e\.g\. {NAME}.*own arch"
    with pytest.raises(AnchorError, match=expected):
        open_weights(tensors()).matrix(Target("model.layers.9.q_proj", (4, 6)))


def test_another_shape_names_both_shapes_and_remedy():
    with pytest.raises(AnchorError, match=r"q_proj: the weight in .* shape \(8, 6\), got \(4, 6\)\. Is .* the same arch"):
        open_weights(tensors()).matrix(Target(TARGET.name, (8, 6)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_must_be_finite(tmp_path, value):
    content = tensors()
    content[NAME][1, 2] = value
    save_file(content, tmp_path / "model.safetensors")
    with pytest.raises(AnchorError, match=rf"q_proj: weights must be finite, but {tmp_path} holds NaN.*Get the file again"):
        open_weights(tmp_path).matrix(TARGET)


def test_a_folder_without_weights_lists_what_it_may_hold(tmp_path):
    with pytest.raises(ConfigurationError, match=r"needs one of .*model\.safetensors.* has none\. Write it with save_"):
        open_weights(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", "sub/model.safetensors", ".."])
def test_an_index_must_not_point_outside_its_folder(tmp_path, suffix, file):
    folder = tmp_path / "checkpoint"
    (folder / "sub").mkdir(parents=True)
    for outside in (tmp_path / "elsewhere.safetensors", folder / "sub" / "model.safetensors"):
        save_file(tensors(), outside)
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": {NAME: file}}))
    with pytest.raises(ConfigurationError, match=r"(files of its own folder, got .*points elsewhere|is not there)"):
        open_weights(folder)


def test_an_index_that_names_an_absent_shard(tmp_path):
    write_sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"names model-00002-of-00002\.safetensors, which is not there\. Get"):
        open_weights(tmp_path)


@pytest.mark.parametrize("content", [b"{not json", b"{}", b"[]", b'{"weight_map": 3}', b"\xff\xfe"])
def test_an_index_that_is_none(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"must be a JSON index with a weight_map, got .*Get it again"):
        open_weights(tmp_path)


def test_a_shard_that_lacks_what_its_index_says(tmp_path):
    write_sharded(tmp_path)
    save_file({"another": randn(2, 2)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ConfigurationError, match=r"model-00001-of-00002\.safetensors cannot be read as.*get it again"):
        open_weights(tmp_path).matrix(TARGET)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_damaged(tmp_path, file, keep):
    path = tmp_path / file
    (save_file if file.endswith(".safetensors") else torch.save)(tensors(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigurationError, match=rf"{file} cannot be read as weights.*get it again"):
        open_weights(tmp_path).matrix(TARGET)


def test_a_truncated_shard_is_damaged(tmp_path):
    write_sharded(tmp_path)
    path = tmp_path / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ConfigurationError, match=r"cannot be read as weights.*get it again"):
        open_weights(tmp_path).matrix(TARGET)


class Exploit:
    """Unpickles to the act of creating a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_execute_code_does_not(tmp_path, write):
    witness = tmp_path / "executed"
    write({NAME: Exploit(witness)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"nothing of it was executed\. Get it again, as safetensors") as error:
        open_weights(tmp_path)
    assert "weights_only=False" not in str(error.value)  # torch's own advice would execute it
    assert not witness.exists()
    pickle.loads(pickle.dumps(Exploit(witness)))
    assert witness.exists()  # so the file was a live one


def test_a_pickle_of_something_else_is_no_checkpoint(tmp_path):
    torch.save(randn(4, 6), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"cannot be read as weights.*get it again"):
        open_weights(tmp_path)
