"""AdapterCheckpoint: PEFT's own format, whole or not at all."""

import errno

import pytest
import torch
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from peft import PeftModel
from transformers import AutoTokenizer

from asft_lightning import AdapterCheckpoint, AsFT, ConfigurationError, LoRAFineTuner, StorageError


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
def test_adapter_loads_with_peft_and_says_the_same(pretrained, tmp_path, kind):
    module = fine_tuner(kind, pretrained)
    tiny_trainer(tmp_path, callbacks=[AdapterCheckpoint()]).fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    plain = pretrained.load_model().eval()
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        before = plain(ids).logits
        loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()(ids).logits
        trained = module.model.eval()(ids).logits

    assert torch.equal(loaded, trained)
    assert not torch.allclose(loaded, before, atol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert tokenizer.chat_template == module.tokenizer.chat_template


def test_folder_of_ones_own_is_replaced_whole(pretrained, tmp_path):
    (tmp_path / "out" / "mine").mkdir(parents=True)
    (tmp_path / "out" / "mine" / "leftover.txt").write_text("old")
    (tmp_path / "out" / "mine" / "adapter_config.json").touch()
    callback = AdapterCheckpoint("out/mine")
    tiny_trainer(tmp_path, callbacks=[callback]).fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path))

    assert "adapter_model.safetensors" in content(tmp_path / "out" / "mine")
    assert "leftover.txt" not in content(tmp_path / "out" / "mine")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("place", [".", "", "..", "checkpoints", "generations", "config.yaml", "theirs", "{aligned}"])
def test_nothing_but_an_earlier_adapter_is_replaced(pretrained, tmp_path, place):
    """The whole run, its checkpoints, a folder of other things and the model itself would be gone."""
    run, place = tmp_path / "run", place.format(aligned=pretrained.aligned)
    (run / "theirs").mkdir(parents=True)
    (run / "theirs" / "thesis.tex").touch()
    (run / "config.yaml").touch()
    with pytest.raises(
        ConfigurationError, match=r"AdapterCheckpoint replaces its folder whole, and .* is more than an earlier"
    ):
        trainer = tiny_trainer(run, callbacks=[AdapterCheckpoint(place)])
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path))
    assert (run / "theirs" / "thesis.tex").exists() and not trainer.global_step


def test_interrupted_writing_leaves_the_old_adapter(pretrained, tmp_path):
    def run(module):
        tiny_trainer(tmp_path, callbacks=[AdapterCheckpoint()]).fit(module, tiny_data(pretrained, tmp_path))

    run(fine_tuner(LoRAFineTuner, pretrained))
    old = content(tmp_path / "adapter")
    second = fine_tuner(LoRAFineTuner, pretrained)

    class Failing(type(second.tokenizer)):
        def save_pretrained(self, *args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")  # the tokenizer is written after the weights

    second.tokenizer.__class__ = Failing
    with pytest.raises(StorageError, match=r"adapter must be written, and cannot be \(No space left on device\)"):
        run(second)

    assert content(tmp_path / "adapter") == old
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".adapter")]
