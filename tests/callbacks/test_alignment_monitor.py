"""AlignmentMonitor: figures against dense float64 matrices, bit-identical training, resumes, and what it refuses."""

import csv
import math
import sys
from dataclasses import replace

import pytest
import torch
from kit import tiny
from kit.activations import probe
from kit.references import dense_gram
from kit.tiny import fine_tuner, tiny_data, tiny_model, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file

from asft_lightning import (
    Activation,
    AdapterProjection,
    AlignmentMonitor,
    AnchorError,
    AsFT,
    ConfigurationError,
    Gram,
    LoRAFineTuner,
    OffAnchorShrinkage,
    Pretrained,
    Shrinkage,
    Subspace,
    UpdatePenalty,
    build_anchors,
)
from asft_lightning.runs.alignment_log import HEADINGS, AlignmentLog
from asft_lightning.runs.alignment_picture import axes_of

EXACT = [Gram(tolerance=0)]


def fit(pair, folder, *callbacks, kind=LoRAFineTuner, module=None, ckpt_path=None, **settings):
    torch.manual_seed(0)
    module = module or fine_tuner(kind, pair, lora=tiny.LORA | {"lora_dropout": 0.2})
    trainer = tiny_trainer(folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, tiny_data(pair, folder, batch_size=4), ckpt_path=ckpt_path)
    return module


def measured(folder):
    return AlignmentLog(folder / "alignment.csv").read()


def dense(pair, module):
    """{module: (norm, aligned share, orthogonal share)} of the authors' C, dense and in float64."""
    aligned, base = (load_file(f"{side}/model.safetensors") for side in (pair.aligned, pair.base))
    weights, found = trained_weights(module), {}
    for key in (key for key in weights if "lora_B" in key):
        name = key.removeprefix("model.base_model.model.").partition(".lora_B")[0]
        c = dense_gram(aligned[f"{name}.weight"].double() - base[f"{name}.weight"].double())
        update = weights[key].double() @ weights[key.replace("lora_B", "lora_A")].double()
        size = update.norm()
        found[name] = [float(size), float((c @ update).norm() / size) ** 2, float((update - c @ update).norm() / size) ** 2]
    return found


def test_figures_are_those_of_the_dense_maps(pretrained, tmp_path):
    module = fit(pretrained, tmp_path, AlignmentMonitor(EXACT, every_n_steps=2))
    rows, expected = measured(tmp_path), dense(pretrained, module)

    assert list(dict.fromkeys(str(row.moment) for row in rows)) == ["before", "2", "4", "after"]
    assert [row.step for row in rows] == [0] * 4 + [2] * 4 + [4] * 8
    assert {row.norm for row in rows[:4]} == {row.aligned for row in rows[:4]} == {0.0}
    assert {row.module for row in rows[-4:]} == expected.keys()
    for row in rows[-4:]:
        assert [row.norm, row.aligned, row.orthogonal] == pytest.approx(expected[row.module], rel=1e-5)
        assert row.penalty == pytest.approx(row.orthogonal * row.norm**2, rel=1e-5)


@pytest.mark.parametrize("kind", [LoRAFineTuner, AsFT])
def test_training_is_as_without_it(pretrained, tmp_path, kind):
    plain = trained_weights(fit(pretrained, tmp_path / "without", kind=kind, max_epochs=2))
    watched = trained_weights(fit(pretrained, tmp_path / "with", AlignmentMonitor(every_n_steps=1), kind=kind, max_epochs=2))
    assert all(torch.equal(watched[name], weight) for name, weight in plain.items())


def test_what_protects_the_run_is_what_it_is_measured_against(pretrained, tmp_path):
    """Its penalty is the one that was trained on."""
    module = fine_tuner(AsFT, pretrained, anchors=[Gram(), Shrinkage(weight=0.5), Gram(weight=2.0)])
    fit(pretrained, tmp_path, AlignmentMonitor(), module=module)
    rows = measured(tmp_path)[-12:]
    assert list(dict.fromkeys(row.anchor for row in rows)) == ["Gram 0", "Shrinkage 1", "Gram 2"]
    assert sum(row.penalty for row in rows) == pytest.approx(float(module.penalty()), rel=1e-5)


def test_an_activation_anchor_that_protects_the_run(pretrained, tmp_path):
    anchors = [Gram(), Activation(prompts=tiny.unsafe_prompts(tmp_path), weight=2.0)]
    module = fine_tuner(AsFT, pretrained, anchors=anchors)
    fit(pretrained, tmp_path / "penalised", AlignmentMonitor(), module=module)
    rows = measured(tmp_path / "penalised")[-8:]
    assert list(dict.fromkeys(row.anchor for row in rows)) == ["Gram", "Activation"]
    assert sum(row.penalty for row in rows) == pytest.approx(float(module.penalty()), rel=1e-5)

    module = fine_tuner(AsFT, pretrained, anchors=anchors[1:], drift_budget=0.01)
    fit(pretrained, tmp_path / "held", AlignmentMonitor(every_n_steps=1), module=module)
    rows = measured(tmp_path / "held")
    for i in range(4, len(rows), 4):
        assert sum(row.penalty for row in rows[i : i + 4]) <= 2 * 0.01**2 * (1 + 1e-5)
    assert sum(row.penalty for row in rows[-4:]) == pytest.approx(2 * 0.01**2, rel=1e-4)


@pytest.mark.parametrize("start", ["aligned", "base"])
def test_an_activation_anchor_to_measure_a_plain_run_against(pretrained, tmp_path, start):
    """It looks at the aligned model, whichever is trained, and training is as without."""
    pair = replace(pretrained, start=start)
    anchor = Activation(prompts=tiny.unsafe_prompts(tmp_path))
    plain = trained_weights(fit(pair, tmp_path / "without"))
    module = fit(pair, tmp_path / "with", AlignmentMonitor([anchor], every_n_steps=2))
    watched = trained_weights(module)
    assert all(torch.equal(watched[name], weight) for name, weight in plain.items())

    found = probe(tiny_model("chat", 1))
    built = build_anchors(module.model, tiny_model("chat", 1), anchors=[anchor], probe=found, progress=False)
    expected = UpdatePenalty(module.model, built, resumed=True)
    total = sum(row.penalty for row in measured(tmp_path / "with")[-4:])
    assert total == pytest.approx(float(expected()), rel=1e-5) and total > 0


def test_anchors_of_a_file(pretrained, tmp_path):
    fit(pretrained, tmp_path / "protected", kind=AsFT)
    fit(pretrained, tmp_path / "plain", AlignmentMonitor(anchor_file=str(tmp_path / "protected")))
    assert {row.anchor for row in measured(tmp_path / "plain")} == {"Gram"}


def test_sums_reach_the_loggers(pretrained, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    fit(pretrained, tmp_path, AlignmentMonitor(EXACT, every_n_steps=2), logger=logger, log_every_n_steps=1)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["update/norm"]]
    last = measured(tmp_path)[-4:]
    size = sum(row.norm**2 for row in last)

    assert [row["step"] for row in logged] == ["0", "2", "4", "4"]
    assert float(logged[-1]["update/norm"]) == pytest.approx(math.sqrt(size))
    for part in ("aligned", "orthogonal"):
        expected = sum(getattr(row, part) * row.norm**2 for row in last) / size
        assert float(logged[-1][f"update/Gram/{part}"]) == pytest.approx(expected)
    assert float(logged[-1]["update/Gram/penalty"]) == pytest.approx(sum(row.penalty for row in last))


def test_after_is_what_a_projection_left(pretrained, tmp_path):
    half = AdapterProjection(OffAnchorShrinkage(1.0, Shrinkage()))
    fit(pretrained, tmp_path, AlignmentMonitor(EXACT, every_n_steps=4), half)
    rows = measured(tmp_path)
    assert [after.norm / last.norm for last, after in zip(rows[-8:-4], rows[-4:], strict=True)] == pytest.approx([0.5] * 4)


def test_resumed_run_goes_on_with_the_table(pretrained, tmp_path):
    """Lines after the checkpoint, and half of one, are measured again."""

    def run(folder, **settings):
        saver = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=1, save_top_k=-1, filename="{step}")
        return fit(
            pretrained, folder, AlignmentMonitor(EXACT, every_n_steps=1), saver, enable_checkpointing=True, **settings
        )

    run(tmp_path, max_epochs=2)
    whole = (tmp_path / "alignment.csv").read_text()
    with (tmp_path / "alignment.csv").open("a") as file:
        file.write("99,99,model.layers.0.self_attn.q_p")
    run(tmp_path, max_epochs=2, ckpt_path=tmp_path / "checkpoints" / "step=3.ckpt")
    assert (tmp_path / "alignment.csv").read_text() == whole
    assert whole.splitlines()[0] == ",".join(HEADINGS)

    run(tmp_path, max_epochs=1)  # anew
    assert [str(row.moment) for row in measured(tmp_path)[::4]] == ["before", "1", "2", "3", "4", "after"]


@pytest.mark.parametrize("anchors", [EXACT, [Gram(), Subspace(num_directions=2)]])
def test_picture(pretrained, tmp_path, anchors):
    fit(pretrained, tmp_path, AlignmentMonitor(anchors, every_n_steps=None, at_start=False))
    picture = (tmp_path / "alignment.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_without_a_picture(pretrained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ConfigurationError,
        match=r'a picture needs matplotlib, which is not installed. Run: pip install "asft-lightning\[plot\]"',
    ):
        AlignmentMonitor()
    fit(pretrained, tmp_path, AlignmentMonitor(EXACT, picture=False))
    assert measured(tmp_path) and not (tmp_path / "alignment.png").exists()


def test_order_of_the_pictures_axes():
    names = [f"model.layers.{i}.{kind}" for i in (10, 2) for kind in ("self_attn.v_proj", "mlp.down_proj")]
    assert axes_of([*names, "lm_head"]) == ([2, 10, None], ["v", "down", "lm_head"])
    assert axes_of(["transformer.h.0.attn.c_attn"]) == ([0], ["c_attn"])


def test_no_base_model(pretrained, tmp_path):
    pair = Pretrained(pretrained.aligned)
    with pytest.raises(AnchorError, match=r"needs both checkpoints, and `base` is not given. Name it under `pretrained`"):
        fit(pair, tmp_path, AlignmentMonitor())
    fit(pair, tmp_path, AlignmentMonitor([Shrinkage()]))


def test_settings_that_cannot_be():
    with pytest.raises(ConfigurationError, match=r"not both: got anchors and anchor_file 'a.safetensors'. Leave one out"):
        AlignmentMonitor(EXACT, "a.safetensors")
    with pytest.raises(ConfigurationError, match=r"AlignmentMonitor: every_n_steps must be 1 or more, got 0"):
        AlignmentMonitor(every_n_steps=0)


def test_layers_without_an_anchor(pretrained, tmp_path):
    fewer = fine_tuner(LoRAFineTuner, pretrained, lora=tiny.LORA | {"target_modules": ["q_proj"]})
    anchors = build_anchors(
        fewer.with_adapter(pretrained.load_model()), pretrained.aligned, pretrained.base, EXACT, progress=False
    )
    anchors.save(tmp_path / "q.safetensors")
    with pytest.raises(ConfigurationError, match=r"an anchor for every trained layer, and 2 like .*v_proj have none. Build"):
        fit(pretrained, tmp_path, AlignmentMonitor(anchor_file=str(tmp_path / "q.safetensors")))


def test_testing_alone_measures_nothing(pretrained, tmp_path):
    module = fine_tuner(LoRAFineTuner, pretrained)
    tiny_trainer(tmp_path, callbacks=[AlignmentMonitor()]).test(
        module, tiny_data(pretrained, tmp_path, val_rows=4), verbose=False
    )
    assert not (tmp_path / "alignment.csv").exists()
