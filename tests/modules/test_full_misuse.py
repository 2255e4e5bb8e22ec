"""Full fine-tuning: nothing trains without its penalty, and what cannot be is refused with what to do instead."""

from dataclasses import replace

import pytest
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import (
    AdapterProjection,
    AlignmentMonitor,
    AnchorError,
    AsFT,
    ConfigurationError,
    FullAsFT,
    FullFineTuner,
    Gram,
    OffAnchorShrinkage,
    Shrinkage,
    UnpenalisedError,
)


def fit(module, pair, folder, *callbacks, ckpt_path=None, **settings):
    trainer = tiny_trainer(folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4), ckpt_path=ckpt_path)


@pytest.mark.parametrize("also", ["norm", "embed_tokens"])
def test_what_no_anchor_sees_is_not_trained_unless_it_is_allowed(pretrained, tmp_path, also):
    with pytest.raises(UnpenalisedError, match=rf"penalised weight matrices, but .*{also}.* would be trained as well"):
        fit(fine_tuner(FullAsFT, pretrained, also_train=[also]), pretrained, tmp_path)
    module = fine_tuner(FullAsFT, pretrained, also_train=[also], allow_unpenalised=True)
    fit(module, pretrained, tmp_path)
    assert module.penalty.unpenalised == [name for name, p in module.model.named_parameters() if f".{also}." in f".{name}."
                                          and p.requires_grad]  # fmt: skip
    assert module.fingerprint()["also_train"] == [also]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"targets": ["qproj"]},
            ConfigurationError,
            r"targets must name what is in the model, and no linear layer has 'qproj'",
        ),
        ({"also_train": ["bias"]}, ConfigurationError, r"also_train must name .* no parameter has 'bias' in its name"),
        ({"targets": []}, ConfigurationError, r"needs targets, the linear layers that it trains, got \[\]"),
        (
            {"anchors": []},
            ConfigurationError,
            r"FullAsFT needs something to hold the model by, and anchors is an empty list",
        ),
        ({"lambda_reg": -1.0}, ConfigurationError, r"must be numbers ≥ 0, got -1.0 and 0"),
        (
            {"anchors": [Gram()], "anchor_file": "a.safetensors"},
            ConfigurationError,
            r"not both: got anchors and anchor_file",
        ),
    ],
)
def test_settings_that_cannot_be(pretrained, settings, error, message):
    with pytest.raises(error, match=message):
        fine_tuner(FullAsFT, pretrained, **settings).build_anchors()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "base"}, r"FullAsFT keeps an aligned model aligned, and pretrained.start is base"),
        ({"load_in_4bit": True}, r"must not be packed, and pretrained.load_in_4bit packs them\. Leave it out"),
    ],
)
def test_checkpoints_that_it_does_not_start_from(pretrained, change, message):
    with pytest.raises(ConfigurationError, match=message):
        FullAsFT(replace(pretrained, **change))


def test_precision_that_would_round_what_is_trained(pretrained, tmp_path):
    with pytest.raises(ConfigurationError, match=r"must be float32 or wider, .* bf16-true rounds them\. Use bf16-mixed"):
        fit(fine_tuner(FullFineTuner, pretrained), pretrained, tmp_path, precision="bf16-true")


def test_no_direction_no_training(pretrained, tmp_path):
    with pytest.raises(AnchorError, match=r"V = W_aligned − W_base must not be 0"):
        fit(fine_tuner(FullAsFT, replace(pretrained, base=pretrained.aligned)), pretrained, tmp_path)


def test_without_its_penalty_it_does_not_train(pretrained):
    module = fine_tuner(FullAsFT, pretrained)
    module.configure_model()
    with pytest.raises(UnpenalisedError, match=r"FullAsFT must not train without its penalty: call bind"):
        module.regularisation()


def test_checkpoint_of_an_adapter_is_refused(pretrained, tmp_path):
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(fine_tuner(AsFT, pretrained), pretrained, tmp_path, saver, enable_checkpointing=True)
    with pytest.raises(ConfigurationError, match='trained with method "AsFT", not "FullAsFT"'):
        fit(fine_tuner(FullAsFT, pretrained), pretrained, tmp_path, ckpt_path=tmp_path / "last.ckpt")


def test_what_looks_at_an_adapter_is_refused(pretrained, tmp_path):
    for callback in (AlignmentMonitor(picture=False), AdapterProjection(OffAnchorShrinkage(1.0, Shrinkage()))):
        expected = rf"{type(callback).__name__} looks at a LoRA adapter, and FullAsFT trains none\. Leave the callback out"
        with pytest.raises(ConfigurationError, match=expected):
            fit(fine_tuner(FullAsFT, pretrained), pretrained, tmp_path, callback)
