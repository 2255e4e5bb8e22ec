"""A model whose frozen weights are in 4 bits, by bitsandbytes itself."""

from dataclasses import replace

import pytest
from kit import tiny
from kit.trainers import Run, SafeSFTTrainer, size_of_update, weights_of

from asft_lightning import AnchorError, Answers, Gram, build_anchors
from asft_lightning.integrations import AsFTTrainer

EVERY_KIND = pytest.mark.parametrize("kind", [AsFTTrainer, SafeSFTTrainer])


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """bitsandbytes packs in blocks of 64."""
    folder = tmp_path_factory.mktemp("wide")
    sides = {"hidden_size": 64, "intermediate_size": 128}
    return tiny.as_pretrained([tiny.save_tiny(folder / name, seed, **sides) for name, seed in (("aligned", 1), ("base", 2))])


@pytest.fixture
def run(wide, tmp_path):
    return Run(replace(wide, load_in_4bit=True, dtype="float32"), tmp_path)


@EVERY_KIND
def test_anchors_need_the_whole_weights(run, kind):
    with pytest.raises(AnchorError, match=r"must be floating-point numbers of 16 bits or more.*before it was quantised"):
        run.trainer(kind, anchors=[Gram()], base=run.pair.base)


@EVERY_KIND
def test_anchors_of_the_whole_weights_and_answers_of_the_packed_ones(run, kind):
    answers = Answers(tiny.unsafe_prompts(run.folder), max_new_tokens=4)
    anchors = build_anchors(run.model(), run.pair.aligned, run.pair.base, [Gram()], progress=False)
    args = run.arguments(kind, learning_rate=1e-2, num_train_epochs=3)
    sizes = []
    for strength in (1e-9, 100.0):
        trainer = run.trainer(kind, args, anchors=anchors, lambda_reg=strength, answers=answers)
        trainer.train()
        sizes.append(size_of_update(weights_of(trainer.model)))
        first, *_, last = (log["answer_divergence"] for log in trainer.state.log_history if "loss" in log)
        assert first == pytest.approx(0.0, abs=1e-6) and last > 0
    assert 0 < sizes[1] < sizes[0] / 2
