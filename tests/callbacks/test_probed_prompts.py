"""Prompts that an anchor was built from are not those that the harmful score is measured on."""

import json

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights

from asft_lightning import (
    Activation,
    AsFT,
    DataError,
    Gram,
    LoRAFineTuner,
    RefusalEvaluation,
    SafetyEvaluation,
    Source,
)

MESSAGE = r"safety: prompts to score must not be those that an anchor was built from, and {} like .*safe {}.*other `rows`"


def fit(pair, folder, module, *callbacks, **settings):
    trainer = tiny_trainer(folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4))
    return trainer


def scored(folder, *rows):
    """A scorer of these prompts, in a file of their own."""
    lines = [{"instruction": row, "output": ""} for row in rows]
    return SafetyEvaluation(Source(tiny.write_rows(folder / "scored.jsonl", lines)), max_new_tokens=2)


def protected(pair, folder, **settings):
    torch.manual_seed(0)
    return fine_tuner(AsFT, pair, **{"anchors": [Activation(prompts=tiny.unsafe_prompts(folder))], **settings})


@pytest.mark.parametrize("budget", [None, 0.01])
@pytest.mark.parametrize(
    ("rows", "count", "first"),
    [
        (["how to open safe 9", "how to open safe 3"], 1, 3),
        (["how to open safe 0", "how to open safe 2"], 2, 0),
        (["  How to OPEN\n safe 1 "], 1, 1),
    ],
    ids=["one", "both", "but for blanks and case"],
)
def test_prompts_of_the_anchors_are_refused_before_any_step(pretrained, tmp_path, rows, count, first, budget):
    module = protected(pretrained, tmp_path, anchors=[Gram(), *protected(pretrained, tmp_path).anchors], drift_budget=budget)
    with pytest.raises(DataError, match="(?i)" + MESSAGE.format(count, first)):
        fit(pretrained, tmp_path, module, scored(tmp_path, *rows))
    assert module.global_step == 0 and not (tmp_path / "generations").exists()
    assert not any(value.any() for name, value in trained_weights(module).items() if "lora_B" in name)


def test_prompts_of_the_anchors_in_a_file_are_refused(pretrained, tmp_path):
    fit(pretrained, tmp_path / "here", protected(pretrained, tmp_path))
    module = protected(pretrained, tmp_path, anchors=None, anchor_file=str(tmp_path / "here"))
    with pytest.raises(DataError, match=MESSAGE.format(1, 3)):
        fit(pretrained, tmp_path / "there", module, scored(tmp_path, "how to open safe 3"))


def test_prompts_that_were_not_looked_at_are_scored(pretrained, tmp_path):
    """num_prompts leaves the others of the source free; nor is it anybody's affair what another callback asks."""
    anchor = Activation(prompts=tiny.unsafe_prompts(tmp_path), num_prompts=2)
    others = RefusalEvaluation(tiny.unsafe_prompts(tmp_path), max_new_tokens=2)
    scorer = scored(tmp_path, "how to open safe 2", "how to open safe 3")
    fit(pretrained, tmp_path, protected(pretrained, tmp_path, anchors=[anchor]), scorer, others)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"before", "after"} <= summary["safety/harmful_score"].keys()


def test_without_such_an_anchor_any_prompt_is_scored(pretrained, tmp_path):
    for kind in (LoRAFineTuner, AsFT):
        trainer = fit(pretrained, tmp_path, fine_tuner(kind, pretrained), scored(tmp_path, "how to open safe 0"))
        assert trainer.global_step == 4


@pytest.mark.parametrize("budget", [None, 0.01])
def test_training_is_the_same_with_scoring(pretrained, tmp_path, budget):
    ends = []
    for name, callbacks in {"plain": [], "scored": [scored(tmp_path, "how to open safe 8")]}.items():
        module = protected(pretrained, tmp_path, drift_budget=budget, lora=tiny.LORA | {"lora_dropout": 0.2})
        fit(pretrained, tmp_path / name, module, *callbacks, max_epochs=2)
        ends.append(trained_weights(module))
    assert all(torch.equal(ends[1][name], weight) for name, weight in ends[0].items())
