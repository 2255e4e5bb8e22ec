"""A run goes on as it began: what its checkpoints say it was trained by is compared, and another method refused."""

import shutil
from dataclasses import replace

import pytest
import torch
from kit import tiny

from asft_lightning import Answers, AsFT, ConfigurationError, Gram, LoRAFineTuner, Shrinkage


@pytest.fixture
def begun(pretrained, tmp_path):
    """The checkpoint of an epoch of AsFT."""
    return checkpoint_of(tiny.fine_tuner(AsFT, pretrained, lambda_reg=2.0), pretrained, tmp_path)


def checkpoint_of(module, pretrained, folder, **settings):
    trainer = tiny.tiny_trainer(folder, **settings)
    trainer.fit(module, tiny.tiny_data(pretrained, folder))
    trainer.save_checkpoint(folder / "begun.ckpt")
    return folder / "begun.ckpt"


def go_on(module, pretrained, checkpoint):
    trainer = tiny.tiny_trainer(checkpoint.parent, max_epochs=2)
    trainer.fit(module, tiny.tiny_data(pretrained, checkpoint.parent), ckpt_path=checkpoint)
    return trainer.global_step


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (LoRAFineTuner, {}, 'method "AsFT", not "LoRAFineTuner"'),
        (AsFT, {"lambda_reg": 1.0}, "lambda_reg 2.0, not 1.0"),
        (AsFT, {"lambda_reg": 2.0, "anchors": [Shrinkage()]}, 'anchors.0.class "Gram", not "Shrinkage"'),
        (AsFT, {"lambda_reg": 2.0, "anchors": [Gram(weight=0.5)]}, "anchors.0.weight 1.0, not 0.5"),
        (AsFT, {"lambda_reg": 2.0, "conflict": "project"}, 'conflict "add", not "project"'),
        (AsFT, {"lambda_reg": 2.0, "anchors": [Gram(), Shrinkage()]}, 'anchors.1.class nothing, not "Shrinkage"'),
        (AsFT, {"lambda_reg": 2.0, "scale_update": True}, "scale_update false, not true"),
        (AsFT, {"lambda_reg": 2.0, "lambda_warmup_steps": 9}, "lambda_warmup_steps 0, not 9"),
        (AsFT, {"lambda_reg": 2.0, "lora": tiny.LORA | {"use_rslora": True}}, "lora_scaling.use_rslora"),
        (AsFT, {"lambda_reg": 2.0, "lora": tiny.LORA | {"alpha_pattern": {"q_proj": 1}}}, "lora_scaling.alpha_pattern"),
    ],
)
def test_another_method_is_refused(pretrained, begun, kind, settings, told):
    with pytest.raises(ConfigurationError, match="a run goes on as it began") as raised:
        go_on(tiny.fine_tuner(kind, pretrained, **settings), pretrained, begun)
    assert told in str(raised.value)


def test_answers_that_are_held_no_more(pretrained, tmp_path):
    answers = Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=4)
    begun = checkpoint_of(tiny.fine_tuner(AsFT, pretrained, answers=answers, anchors=[]), pretrained, tmp_path)
    assert go_on(tiny.fine_tuner(AsFT, pretrained, answers=answers, anchors=[]), pretrained, begun) > 1
    with pytest.raises(ConfigurationError, match=r"answers.max_new_tokens 4, not 1"):
        go_on(tiny.fine_tuner(AsFT, pretrained, answers=replace(answers, max_new_tokens=1), anchors=[]), pretrained, begun)


def test_another_model(pretrained, tiny_pair, begun):
    other = replace(pretrained, aligned=str(tiny_pair[1]), base=str(tiny_pair[0]))
    with pytest.raises(ConfigurationError, match='aligned "aligned", not "base"'):
        go_on(tiny.fine_tuner(AsFT, other, lambda_reg=2.0), pretrained, begun)


def test_folders_that_moved(pretrained, tiny_pair, begun, tmp_path):
    moved = [
        str(shutil.copytree(folder, tmp_path / "moved" / name))
        for folder, name in zip(tiny_pair, ("aligned", "base"), strict=True)
    ]
    there = tiny.as_pretrained(moved)
    assert go_on(tiny.fine_tuner(AsFT, there, lambda_reg=2.0), there, begun) > 1


def test_a_checkpoint_that_says_nothing_is_gone_on_from(pretrained, begun):
    """As those of an earlier version; and one that was scored with other settings."""
    content = torch.load(begun, weights_only=True)
    assert content.pop("trained_as")["method"] == '"AsFT"'
    torch.save(content, begun)
    assert go_on(tiny.fine_tuner(AsFT, pretrained, lambda_reg=3.0), pretrained, begun) > 1


@pytest.mark.parametrize("said", [3, {"method": 3}, ["method"]])
def test_a_checkpoint_that_says_something_else(pretrained, begun, said):
    torch.save(torch.load(begun, weights_only=True) | {"trained_as": said}, begun)
    with pytest.raises(ConfigurationError, match="trained_as is of another kind"):
        go_on(tiny.fine_tuner(AsFT, pretrained, lambda_reg=2.0), pretrained, begun)
