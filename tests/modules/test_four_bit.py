"""Frozen weights in 4 bits, by bitsandbytes itself: the anchors are the whole weights', and all else is as ever."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from kit.references import dense_gram
from kit.tiny import LORA, as_pretrained, fine_tuner, save_tiny, tiny_data, tiny_trainer, trained_weights, write_rows
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, PeftModel, get_peft_model

from asft_lightning import AdapterCheckpoint, AsFT, ConfigurationError, Gram, SafetyEvaluation, Source
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.matrices import open_weights


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Sides of 64 and more: bitsandbytes packs in blocks of 64, and some CPUs' kernels take no side that is smaller."""
    folder = tmp_path_factory.mktemp("wide")
    sides = {"hidden_size": 64, "intermediate_size": 128}
    return as_pretrained([save_tiny(folder / name, seed, **sides) for name, seed in (("aligned", 1), ("base", 2))])


@pytest.fixture(scope="module")
def packed(pretrained):
    return replace(pretrained, load_in_4bit=True, dtype="float32")


def fit(packed, folder, checkpoint=None, **settings):
    torch.manual_seed(0)
    module = fine_tuner(AsFT, packed, anchors=[Gram(tolerance=0)], lora=LORA | {"lora_dropout": 0.2}, lambda_reg=0.5)
    callbacks = [AdapterCheckpoint(), ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=2)]
    trainer = tiny_trainer(folder, callbacks=callbacks, max_epochs=2, enable_checkpointing=True, **settings)
    trainer.fit(module, tiny_data(packed, folder, batch_size=4), ckpt_path=checkpoint)
    return module


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("four-bit")
    return fit(packed, folder), folder


def test_weights_are_packed_and_factors_learn(trained, pretrained):
    module, _ = trained
    frozen = {p.dtype for name, p in module.model.named_parameters() if "_proj" in name and not p.requires_grad}
    assert frozen == {torch.uint8}
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}
    assert all(bool(weight.any()) for weight in trained_weights(module).values())


@torch.no_grad()
def test_penalty_is_that_of_the_whole_weights(trained, pretrained):
    module, _ = trained
    aligned, base = open_weights(pretrained.aligned), open_weights(pretrained.base)
    expected = 0.0
    for name, layer in module.model.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            weight = f"{name.removeprefix('base_model.model.')}.weight"
            c = dense_gram((aligned[weight] - base[weight]).double())
            update = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
            expected += float(((torch.eye(len(c)) - c) @ update).square().sum())
    assert float(module.penalty()) == pytest.approx(expected, rel=1e-5)


def test_resumes_to_the_same_weights(trained, packed, tmp_path):
    module, folder = trained
    saved = torch.load(folder / "step=4.ckpt", weights_only=True)
    assert all("lora_" in name for name in saved["state_dict"])
    again = fit(packed, tmp_path, checkpoint=folder / "step=4.ckpt")
    assert all(torch.equal(trained_weights(again)[name], weight) for name, weight in trained_weights(module).items())


def test_adapter_fits_the_whole_model(trained, pretrained):
    module, folder = trained
    model = PeftModel.from_pretrained(pretrained.load_model(), folder / "adapter")
    found = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert all(torch.equal(found[name.removeprefix("model.")], value) for name, value in trained_weights(module).items())


def test_scoring_changes_neither_the_packed_weights_nor_the_gradients(packed):
    """On CPUs with AVX512-BF16 bitsandbytes packs weights anew in eval mode, for a kernel without gradients."""
    torch.manual_seed(0)
    model = get_peft_model(packed.load_model(), LoraConfig(**LORA, init_lora_weights=False)).train()
    ids = torch.arange(5, 25)[None]

    def state():
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        return [loss.detach(), *gradients, *(p.detach().clone() for p in model.parameters() if p.dtype == torch.uint8)]

    before = state()
    with undisturbed(model):
        model(input_ids=ids)
    assert len(before) == 1 + 8 + 14
    assert all(torch.equal(found, expected) for found, expected in zip(state(), before, strict=True))


def test_answers_are_scored(packed, tmp_path):
    prompts = Source(write_rows(tmp_path / "prompts.jsonl", [{"instruction": "how to open safe 1", "output": "no"}]))
    scorer = SafetyEvaluation(prompts, max_new_tokens=4)
    trainer = tiny_trainer(tmp_path, callbacks=[scorer], precision="bf16-true", max_steps=1)
    trainer.fit(fine_tuner(AsFT, replace(packed, dtype="auto")), tiny_data(packed, tmp_path))
    scores = json.loads((tmp_path / "summary.json").read_text())["safety/harmful_score"]
    assert {scores["before"], scores["after"]} <= {0.0, 100.0}


def test_without_bitsandbytes(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python marks a module that cannot be imported
    with pytest.raises(ConfigurationError, match=r'needs bitsandbytes, .* pip install "asft-lightning\[4bit\]"'):
        packed.load_model()
