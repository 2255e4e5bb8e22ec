"""AsFT with an Activation anchor and a Trainer: penalised, or held to a drift budget after every step."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from kit.tiny import logged_run as run
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import (
    Activation,
    AnchorError,
    AsFT,
    ConfigurationError,
    DriftBudget,
    Gram,
    Shrinkage,
    UpdatePenalty,
)
from asft_lightning.penalty import probed_prompts

LIMIT = 0.02


def eager(parameters):
    """Leaves a small budget at every step."""
    return torch.optim.AdamW(parameters, lr=3e-2, weight_decay=0.0)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.fixture
def activation(tmp_path):
    return Activation(prompts=tiny.unsafe_prompts(tmp_path))


class Drifts(Callback):
    """The drift after each batch, measured anew."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        terms = tuple(term for term in pl_module.anchor_set.terms if term.relative)
        bound = UpdatePenalty(pl_module.model, replace(pl_module.anchor_set, terms=terms), resumed=True)
        self.found.append(math.sqrt(float(bound().detach())))


HELD = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "clipping": {"gradient_clip_val": 0.1},
    "both": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
}


@pytest.mark.parametrize("case", HELD)
def test_drift_is_never_above_the_limit_after_a_step(pretrained, tmp_path, activation, case):
    drifts, free = Drifts(), Drifts()
    module = fine_tuner(AsFT, pretrained, anchors=[activation], drift_budget=LIMIT, optimizer=eager)
    steps = run(module, pretrained, tmp_path / "held", max_epochs=2, callbacks=[drifts], **HELD[case])
    assert len(drifts.found) == 8 and max(drifts.found) <= LIMIT * (1 + 1e-5)
    assert drifts.found[-1] == pytest.approx(LIMIT, rel=1e-5)
    assert steps[0]["train/drift"] == 0.0
    assert max(row["train/drift"] for row in steps) == pytest.approx(LIMIT, rel=1e-5)
    assert max(row["train/budget_multiplier"] for row in steps) > 0
    assert not {"train/penalty", "train/penalty_ratio", "train/lambda"} & steps[0].keys()

    loose = fine_tuner(AsFT, pretrained, anchors=[activation], drift_budget=1e6, optimizer=eager)
    steps = run(loose, pretrained, tmp_path / "free", max_epochs=2, callbacks=[free], **HELD[case])
    assert free.found[-1] > 2 * LIMIT
    assert {row["train/budget_multiplier"] for row in steps} == {0.0}


def test_drift_that_is_logged_is_that_before_the_step(pretrained, tmp_path, activation):
    drifts = Drifts()
    module = fine_tuner(AsFT, pretrained, anchors=[activation], drift_budget=LIMIT, optimizer=eager)
    steps = run(module, pretrained, tmp_path, callbacks=[drifts])
    assert [row["train/drift"] for row in steps] == pytest.approx([0.0, *drifts.found[:-1]], rel=1e-5)


def test_a_step_and_back_by_hand(pretrained, tmp_path, activation):
    """SGD's step, and then the projection of DriftBudget."""
    ends = []
    for limit in (1e6, LIMIT):
        torch.manual_seed(0)
        adapter = tiny.write_adapter(tmp_path / "adapter", pretrained)
        module = fine_tuner(AsFT, pretrained, anchors=[activation], drift_budget=limit, adapter=adapter, optimizer=sgd)
        tiny_trainer(tmp_path, max_steps=1).fit(module, tiny_data(pretrained, tmp_path))
        if limit != LIMIT:
            assert float(module.budget.drift()) > LIMIT
            DriftBudget(module.model, module.anchor_set, LIMIT, resumed=True).hold()
        ends.append(trained_weights(module))
    assert all(torch.equal(ends[0][name], weight) for name, weight in ends[1].items())


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_resumed_run_equals_an_uninterrupted_one(pretrained, tmp_path, activation, stop):
    def fit(name, checkpoint=None):
        torch.manual_seed(0)
        saver = ModelCheckpoint(tmp_path / name, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = tiny_trainer(tmp_path / name, callbacks=[saver], max_epochs=2, enable_checkpointing=True)
        module = fine_tuner(
            AsFT,
            pretrained,
            anchors=[Gram(), activation],
            drift_budget=LIMIT,
            optimizer=eager,
            lora=tiny.LORA | {"lora_dropout": 0.3},
        )
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4), ckpt_path=checkpoint)
        assert trainer.global_step == 8
        return trained_weights(module)

    whole = fit("whole")
    again = fit("again", tmp_path / "whole" / f"step={stop}.ckpt")
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def weights_of(pretrained, folder, **settings):
    torch.manual_seed(0)
    module = fine_tuner(AsFT, pretrained, **settings)
    tiny_trainer(folder).fit(module, tiny_data(pretrained, folder, batch_size=4))
    return module, trained_weights(module)


def test_of_a_sum_with_a_budget_the_others_are_penalised(pretrained, tmp_path, activation):
    _, plain = weights_of(pretrained, tmp_path / "plain", anchors=[Gram(), Shrinkage(weight=0.5)], lambda_reg=3.0)
    summed, held = weights_of(
        pretrained,
        tmp_path / "held",
        anchors=[Gram(), activation, Shrinkage(weight=0.5)],
        lambda_reg=3.0,
        drift_budget=1e6,
    )
    assert all(torch.equal(held[name], weight) for name, weight in plain.items())
    others = tuple(term for term in summed.anchor_set.terms if term.label != "Activation")
    expected = UpdatePenalty(summed.model, replace(summed.anchor_set, terms=others), resumed=True)
    assert float(summed.penalty()) == float(expected()) > 0

    _, tight = weights_of(pretrained, tmp_path / "tight", anchors=[Gram(), activation], lambda_reg=3.0, drift_budget=1e-3)
    assert not any(torch.equal(tight[name], weight) for name, weight in plain.items() if "lora_A" in name)


def test_a_budget_alone_needs_no_strength(pretrained, tmp_path, activation):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without protection")
        runs = [
            weights_of(
                pretrained, tmp_path / str(reg), anchors=[activation], lambda_reg=reg, drift_budget=LIMIT, optimizer=eager
            )
            for reg in (0.0, 5.0)
        ]
    (none, first), (_, second) = runs
    assert none.penalty is None
    assert all(torch.equal(second[name], weight) for name, weight in first.items())


def test_without_a_budget_it_is_a_penalty_like_any_other(pretrained, tmp_path, activation):
    sizes = []
    for strength in (1e-3, 10.0, 1e4):
        module = fine_tuner(AsFT, pretrained, anchors=[activation], lambda_reg=strength)
        steps = run(module, pretrained, tmp_path / str(strength), max_epochs=2)
        assert module.budget is None and "train/drift" not in steps[0]
        sizes.append(steps[-1]["train/penalty"])
    assert sizes[0] > 1.2 * sizes[1] > 1.2 * 1.2 * sizes[2] > 0


def test_the_probing_of_the_model_leaves_no_trace(pretrained, tmp_path, activation, anchor_cache):
    """The run that builds the anchors and one that finds them in the cache are the same."""
    fresh = replace(activation, ridge=0.123)
    _, built = weights_of(pretrained, tmp_path / "built", anchors=[fresh])
    kept = len(list(anchor_cache.iterdir()))
    _, found = weights_of(pretrained, tmp_path / "found", anchors=[fresh])
    assert len(list(anchor_cache.iterdir())) == kept
    assert all(torch.equal(found[name], weight) for name, weight in built.items())


def test_anchors_of_a_file_are_held_to(pretrained, tmp_path, activation):
    settings = {"drift_budget": LIMIT, "optimizer": eager}
    here, expected = weights_of(pretrained, tmp_path / "here", anchors=[activation], **settings)
    there, found = weights_of(pretrained, tmp_path / "there", anchor_file=str(tmp_path / "here"), **settings)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert probed_prompts(there) == probed_prompts(here) and len(probed_prompts(here)) == 4
    assert here.fingerprint()["drift_budget"] == LIMIT


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_limits_that_cannot_be(pretrained, limit):
    with pytest.raises(ConfigurationError, match=r"above 0, from 1e-12 to 1e12, got .*Recommended is 0.3"):
        AsFT(pretrained, drift_budget=limit)


@pytest.mark.parametrize("anchors", [None, [Shrinkage()], [Gram(), Shrinkage()]])
def test_a_budget_without_an_activation_anchor(pretrained, tmp_path, anchors):
    module = fine_tuner(AsFT, pretrained, anchors=anchors, drift_budget=LIMIT)
    with pytest.raises(ConfigurationError, match=r"among `anchors` there are 0 of them\. Have exactly one"):
        tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path))


def test_a_budget_for_two_activation_anchors(pretrained, tmp_path, activation):
    module = fine_tuner(AsFT, pretrained, anchors=[activation, replace(activation, tokens="last")], drift_budget=LIMIT)
    with pytest.raises(ConfigurationError, match=r"among `anchors` there are 2 of them"):
        tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path))


def test_without_prompts_it_does_not_train(pretrained, tmp_path):
    with pytest.raises(AnchorError, match=r"Activation needs `prompts`, a source of unsafe prompts"):
        tiny_trainer(tmp_path).fit(fine_tuner(AsFT, pretrained, anchors=[Activation()]), tiny_data(pretrained, tmp_path))


def test_ddp_does_not_broadcast_the_anchors_of_a_budget(pretrained, tmp_path, activation):
    module, _ = weights_of(pretrained, tmp_path, anchors=[Gram(), activation], drift_budget=LIMIT)
    names = {name for name, _ in module.named_buffers() if name.startswith(("penalty.", "budget."))}
    assert {name.partition(".")[0] for name in names} == {"penalty", "budget"}
    assert names == set(module._ddp_params_and_buffers_to_ignore)
    assert not {name for name in module.state_dict() if "lora_" not in name}
