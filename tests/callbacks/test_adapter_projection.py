"""AdapterProjection: after training, before anything is scored or written, wherever it stands in the list."""

import itertools
import json

import pytest
import torch
from kit import tiny
from kit.references import dense_gram
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from safetensors.torch import load_file

from asft_lightning import (
    AdapterCheckpoint,
    AdapterProjection,
    AnchorError,
    ConfigurationError,
    LoRAFineTuner,
    OffAnchorShrinkage,
    Pretrained,
    SafeLoRA,
    Shrinkage,
    Source,
    UtilityEvaluation,
)


def fit(pair, folder, *callbacks, ckpt_path=None, **settings):
    torch.manual_seed(0)
    module = fine_tuner(LoRAFineTuner, pair)
    trainer = tiny_trainer(folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4), ckpt_path=ckpt_path)
    return module, trainer


def half():
    """A projection whose effect is plain: every B is halved."""
    return AdapterProjection(OffAnchorShrinkage(1.0, Shrinkage()))


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_what_is_scored_and_written_is_projected(pretrained, tmp_path, order):
    class Remembering(UtilityEvaluation):
        def run(self, trainer, pl_module, moment):
            self.seen = trained_weights(pl_module)
            return super().run(trainer, pl_module, moment)

    prompts = Source(tiny.write_rows(tmp_path / "tasks.jsonl", tiny.benign_rows(2)))
    scorer = Remembering(prompts, max_new_tokens=2, at_start=False)
    callbacks = [half(), scorer, AdapterCheckpoint()]
    module, _ = fit(pretrained, tmp_path / "with", *(callbacks[i] for i in order))
    plain, _ = fit(pretrained, tmp_path / "without")
    written = load_file(tmp_path / "with" / "adapter" / "adapter_model.safetensors")

    for name, weight in trained_weights(plain).items():
        expected = weight / 2 if "lora_B" in name else weight
        assert torch.equal(trained_weights(module)[name], expected)
        assert torch.equal(scorer.seen[name], expected)
        assert torch.equal(written[name.removeprefix("model.").replace(".default", "")], expected)


def test_safe_lora_of_a_run_is_the_dense_rule(pretrained, tmp_path):
    module, _ = fit(pretrained, tmp_path, AdapterProjection(SafeLoRA(num_layers=2)), max_epochs=3)
    plain = trained_weights(fit(pretrained, tmp_path, max_epochs=3)[0])
    aligned, base = (load_file(f"{folder}/model.safetensors") for folder in (pretrained.aligned, pretrained.base))
    cosines, mapped = {}, {}
    for key in (key for key in plain if "lora_B" in key):
        name = key.removeprefix("model.base_model.model.").partition(".lora_B")[0]
        c = dense_gram(aligned[f"{name}.weight"].double() - base[f"{name}.weight"].double())
        a, b = plain[key.replace("lora_B", "lora_A")].double(), plain[key].double()
        cosines[key] = float(torch.cosine_similarity((c @ b @ a).flatten(), (b @ a).flatten(), dim=0))
        mapped[key] = c @ b
    chosen = sorted(cosines, key=cosines.get)[:2]
    for key, weight in trained_weights(module).items():
        expected = mapped[key].float() if key in chosen else plain[key]
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-8)
    record = json.loads((tmp_path / "projection.json").read_text())
    assert record["method"] == {"class": "SafeLoRA", "threshold": None, "num_layers": 2}
    assert [layer["cosine"] for layer in record["layers"].values()] == pytest.approx(list(cosines.values()), rel=1e-5)


def test_summary_names_it(pretrained, tmp_path):
    prompts = Source(tiny.write_rows(tmp_path / "tasks.jsonl", tiny.benign_rows(2)))
    fit(pretrained, tmp_path, UtilityEvaluation(prompts, max_new_tokens=2), half())
    run = json.loads((tmp_path / "summary.json").read_text())["run"]
    assert (run["method"], run["projection"]["class"]) == ("LoRAFineTuner", "OffAnchorShrinkage")


def test_checkpoint_of_the_training_is_not_projected(pretrained, tmp_path):
    saver = ModelCheckpoint(tmp_path, save_last=True)
    module, _ = fit(pretrained, tmp_path, half(), saver, enable_checkpointing=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for name, weight in trained_weights(module).items():
        assert torch.equal(weight, saved[name] / 2 if "lora_B" in name else saved[name])


def test_several_stay_in_their_order(pretrained, tmp_path):
    first, second = half(), half()
    module, trainer = fit(pretrained, tmp_path, AdapterCheckpoint(), first, second)
    plain, _ = fit(pretrained, tmp_path)
    assert [callback for callback in trainer.callbacks if isinstance(callback, AdapterProjection)] == [first, second]
    for name, weight in trained_weights(plain).items():
        assert torch.equal(trained_weights(module)[name], weight / 4 if "lora_B" in name else weight)


def test_testing_alone_projects_nothing(pretrained, tmp_path):
    module = fine_tuner(LoRAFineTuner, pretrained, adapter=tiny.write_adapter(tmp_path / "adapter", pretrained))
    tiny_trainer(tmp_path, callbacks=[half()]).test(module, tiny_data(pretrained, tmp_path, val_rows=4), verbose=False)
    assert not (tmp_path / "projection.json").exists()


def test_without_a_base_model(pretrained, tmp_path):
    pair = Pretrained(pretrained.aligned)
    fit(pair, tmp_path / "shrinkage", half())
    with pytest.raises(ConfigurationError, match=r"SafeLoRA needs both checkpoints, and `base` is not given. Name it under"):
        fit(pair, tmp_path, AdapterProjection(SafeLoRA(threshold=0.5)))


def test_one_checkpoint_twice(pretrained, tmp_path):
    with pytest.raises(AnchorError, match=r"V = W_aligned − W_base must not be 0"):
        fit(Pretrained(pretrained.aligned, pretrained.aligned), tmp_path, AdapterProjection(SafeLoRA(threshold=0.5)))


def test_a_module_of_another_kind(tmp_path):
    with pytest.raises(ConfigurationError, match=r"needs a module with `pretrained`.*BoringModel has none. Set it"):
        tiny_trainer(tmp_path, callbacks=[half()]).fit(BoringModel())


def test_run_that_is_ended_after_projecting_projects_once(pretrained, tmp_path):
    """Its checkpoint holds the adapter as it was trained."""

    class EndedAtEnd(Callback):
        def on_train_end(self, *_):
            raise RuntimeError("ended")

    saver = {"save_last": True, "save_on_exception": True, "every_n_train_steps": 1000}
    settings = {"enable_checkpointing": True, "max_epochs": -1, "max_steps": 4}
    with pytest.raises(RuntimeError, match="ended"):
        fit(pretrained, tmp_path, half(), EndedAtEnd(), ModelCheckpoint(tmp_path, **saver), **settings)
    last = tmp_path / "last.ckpt"
    module, _ = fit(pretrained, tmp_path, half(), ModelCheckpoint(tmp_path, **saver), ckpt_path=last, **settings)
    whole, _ = fit(pretrained, tmp_path / "whole", half(), **settings)
    expected = trained_weights(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in trained_weights(module).items())
