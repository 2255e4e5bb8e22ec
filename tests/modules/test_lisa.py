"""Lisa with a real Trainer: its alternation and proximal gradient against a loop written by hand, and exact resumes."""

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from asft_lightning import ConfigurationError, Lisa, LoRAFineTuner, Pretrained, Source
from asft_lightning.data import EndlessBatches


class Remembering(Lisa):
    """Keeps what its steps were made on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def task_loss(self, batch):
        if self.training:
            self.seen.append((self.aligning, batch["input_ids"].tolist()))
        return super().task_loss(batch)


def data(pair, folder, **settings):
    """16 task rows in batches of 4, and 10 refusals apart."""
    refusals = [{"instruction": f"how to open safe {i}", "output": "I can't help."} for i in range(10)]
    safety = Source(tiny.write_rows(folder / "safety.jsonl", refusals))
    return tiny_data(
        pair, folder, **{"safety": safety, "safety_rows": 10, "safety_apart": True, "batch_size": 4, **settings}
    )


def lisa(pair, **settings):
    torch.manual_seed(0)
    return fine_tuner(Remembering, pair, **{"alignment_steps": 2, "task_steps": 3, "rho": 0.7, **settings})


def fit(module, pair, folder, ckpt_path=None, callbacks=(), **settings):
    saving = {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)}
    logger = CSVLogger(folder, "", "")
    trainer = tiny_trainer(folder, callbacks=list(callbacks), logger=logger, log_every_n_steps=1, **saving | settings)
    trainer.fit(module, data(pair, folder), ckpt_path=ckpt_path)
    return trainer


def reference(pair, folder, steps, accumulate, rho, start, batches, task):
    """The authors' algorithm, by hand: {name: weight} after so many optimizer steps of plain Adam."""
    torch.manual_seed(0)
    module = fine_tuner(LoRAFineTuner, pair)
    module.configure_model()
    weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = tiny.fast_adamw(list(weights.values()))
    number = 0
    for step in range(steps):
        aligning = step % 5 < 2
        if step % 5 in (0, 2):
            last = {name: p.detach().clone() for name, p in weights.items()}
        optimizer.zero_grad()
        for part in range(accumulate):
            batch = task[(step * accumulate + part) % len(task)]
            if aligning:
                batch, number = batches[number], number + 1
            (module.task_loss(batch) / accumulate).backward()
        if step >= start * steps:
            for name, p in weights.items():
                p.grad += rho * (p.detach() - last[name])
        optimizer.step()
    return {name: p.detach() for name, p in weights.items()}


@pytest.mark.parametrize(("accumulate", "rho", "start"), [(1, 0.7, 0.0), (1, 50.0, 0.5), (2, 5.0, 0.0), (4, 0.0, 0.1)])
def test_run_is_the_authors_algorithm(pretrained, tmp_path, accumulate, rho, start):
    module = lisa(pretrained, rho=rho, proximal_start=start)
    steps = 12 // accumulate
    trainer = fit(module, pretrained, tmp_path, max_epochs=3, accumulate_grad_batches=accumulate)
    drawn = data(pretrained, tmp_path)
    drawn.setup()
    task = []
    for epoch in range(3):
        loader = drawn.train_dataloader()
        loader.sampler.set_epoch(epoch)
        task += list(loader)
    expected = reference(pretrained, tmp_path, steps, accumulate, rho, start, drawn.safety_batches, task)

    assert trainer.global_step == steps
    for name, weight in trained_weights(module).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


def test_states_take_turns_and_alignment_comes_first(pretrained, tmp_path):
    module = lisa(pretrained)
    fit(module, pretrained, tmp_path, max_epochs=3)
    refusals = module.trainer.datamodule.safety_batches
    expected = iter([refusals[i]["input_ids"].tolist() for i in range(6)])

    assert [aligning for aligning, _ in module.seen] == [True, True, False, False, False] * 2 + [True, True]
    assert [rows for aligning, rows in module.seen if aligning] == list(expected)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_state_never_changes_within_a_step(pretrained, tmp_path, accumulate):
    """Also where an epoch's end cuts an accumulated step short: 4 batches an epoch, 3 a step."""
    module = lisa(pretrained)
    fit(module, pretrained, tmp_path, max_epochs=5, accumulate_grad_batches=accumulate)
    parts = {2: [2] * 10, 3: [3, 1] * 5}[accumulate]
    expected = [step % 5 < 2 for step, count in enumerate(parts) for _ in range(count)]
    assert [aligning for aligning, _ in module.seen] == expected


def rows(folder):
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_what_is_logged(pretrained, tmp_path):
    """No proximal term in the first half; then it is ρ/2 of the squared drift, 0 where a state begins."""
    fit(lisa(pretrained, proximal_start=0.5), pretrained, tmp_path, max_epochs=3)
    steps = rows(tmp_path)
    assert [float(row["train/aligning"]) for row in steps] == [1, 1, 0, 0, 0] * 2 + [1, 1]
    assert [bool(row["train/proximal"]) for row in steps] == [False] * 6 + [True] * 6
    proximal = [float(row["train/proximal"]) for row in steps[6:]]
    assert [value == 0 for value in proximal] == [False, True, False, False, True, False]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.slow
def test_resumed_at_any_step_equals_the_uninterrupted_run(pretrained, tmp_path, at, accumulate):
    def run(name, ckpt_path=None, **settings):
        module = lisa(pretrained, lora=tiny.LORA | {"lora_dropout": 0.3})
        saver = ModelCheckpoint(tmp_path / name, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        fit(module, pretrained, tmp_path / name, ckpt_path, [saver], accumulate_grad_batches=accumulate, **settings)
        return module

    whole = run("whole", max_epochs=4)
    parts = run("parts", tmp_path / "whole" / f"step={at}.ckpt", max_epochs=4)
    assert parts.seen == whole.seen[-len(parts.seen) :]
    assert len(parts.seen) == 16 - at * accumulate
    expected = trained_weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trained_weights(parts).items())


@pytest.mark.parametrize("ended_after", range(3, 16, 2))
def test_ended_between_two_micro_batches(pretrained, tmp_path, ended_after):
    """The alignment batches of the step that was not finished are given again."""

    def run(name, ckpt_path=None, callbacks=()):
        module = lisa(pretrained, lora=tiny.LORA | {"lora_dropout": 0.3})
        fit(module, pretrained, tmp_path / name, ckpt_path, callbacks, accumulate_grad_batches=2, max_epochs=4)
        return module

    whole = run("whole")
    saver = ModelCheckpoint(tmp_path / "ended", save_on_exception=True, every_n_train_steps=1000)
    with pytest.raises(RuntimeError, match="ended"):
        run("ended", callbacks=[saver, tiny.EndAfter(ended_after)])
    parts = run("again", next((tmp_path / "ended").glob("*.ckpt")))
    assert parts.seen == whole.seen[-len(parts.seen) :]
    assert len(parts.seen) == 16 - ended_after + 1
    expected = trained_weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trained_weights(parts).items())


def test_lisa_base_starts_from_the_base_model(pretrained, tmp_path):
    """And keeps the aligned model's tokenizer, which has the template."""
    pair = Pretrained(pretrained.aligned, pretrained.base, start="base")
    module = lisa(pair)
    fit(module, pair, tmp_path)
    expected = Pretrained(pretrained.base).load_model().state_dict()
    found = {name.replace("base_layer.", ""): w for name, w in module.model.get_base_model().state_dict().items()}

    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert module.fingerprint()["start"] == "base"
    assert module.tokenizer.name_or_path == pretrained.aligned


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -1.0}, r"rho ≥ 0 and proximal_start in 0..1, got -1.0 and 0.1"),
        ({"rho": float("nan")}, r"rho ≥ 0 .*got nan"),
        ({"proximal_start": 10.0}, r"proximal_start in 0..1, got 1.0 and 10.0"),
        ({"alignment_steps": 0}, r"alignment_steps and task_steps of 1 or more, got 0 and 900. For one state alone"),
        ({"task_steps": 0}, r"got 100 and 0"),
    ],
)
def test_settings_that_cannot_be(pretrained, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        Lisa(pretrained, **settings)


@pytest.mark.parametrize("settings", [{"safety_apart": False}, {"safety": None, "safety_rows": 0, "safety_apart": False}])
def test_data_without_alignment_rows(pretrained, tmp_path, settings):
    with pytest.raises(ConfigurationError, match=r"rows that are kept apart.*safety_apart: true, as --config"):
        tiny_trainer(tmp_path).fit(lisa(pretrained), data(pretrained, tmp_path, **settings))


def test_run_without_an_end(pretrained, tmp_path):
    with pytest.raises(ConfigurationError, match=r"proximal_start is a share of it, 0.1, and it has neither max_steps nor"):
        fit(lisa(pretrained), pretrained, tmp_path, max_epochs=-1)


def test_checkpoint_of_another_method(pretrained, tmp_path):
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(fine_tuner(LoRAFineTuner, pretrained), pretrained, tmp_path, callbacks=[saver])
    with pytest.raises(ConfigurationError, match=r'trained with method "LoRAFineTuner", not .* from its adapter'):
        fit(lisa(pretrained), pretrained, tmp_path, tmp_path / "last.ckpt", max_epochs=2)


@pytest.mark.parametrize(
    "change",
    [{"batches": "x"}, {"batches": 1.5}, {"switched_at": None}, {"switch": None}, {"switch": {}}, {"switch": "shape"}],
    ids=str,
)
def test_checkpoint_of_another_shape(pretrained, tmp_path, change):
    fit(lisa(pretrained), pretrained, tmp_path, callbacks=[ModelCheckpoint(tmp_path, save_last=True)])
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    if change == {"switch": "shape"}:
        change = {"switch": {name: weight[:1] for name, weight in content["lisa"]["switch"].items()}}
    torch.save(content | {"lisa": content["lisa"] | change}, tmp_path / "last.ckpt")
    with pytest.raises(ConfigurationError, match="cannot be read as a checkpoint of this run"):
        fit(lisa(pretrained), pretrained, tmp_path, tmp_path / "last.ckpt", max_epochs=2)


def test_alignment_rows_of_ones_own_data(pretrained, tmp_path):
    """Any data module with `safety_batches` will do."""

    class Own(LightningDataModule):
        def __init__(self, inner):
            super().__init__()
            inner.setup()
            self.inner, self.safety_batches = inner, inner.safety_batches

        def train_dataloader(self):
            collator = self.inner.train_dataloader().collate_fn
            return DataLoader(self.inner.mixture.train, batch_size=4, collate_fn=collator)

    module = lisa(pretrained)
    tiny_trainer(tmp_path).fit(module, Own(data(pretrained, tmp_path)))
    assert isinstance(module._batches, EndlessBatches)
    assert [aligning for aligning, _ in module.seen] == [True, True, False, False]
