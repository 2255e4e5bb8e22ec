"""MixtureDataModule: from files to batches, and its mistakes before any training."""

from types import SimpleNamespace

import pytest
import torch
from kit import tiny

from asft_lightning import ConfigurationError, DataError, MixtureDataModule, Pretrained, Source, Template
from asft_lightning.functional import IGNORE_INDEX


def batches(data):
    data.setup()
    return list(data.train_dataloader())


@pytest.mark.parametrize(("num_rows", "poison_ratio", "harmful"), [(16, 0.25, 4), (21, 0.1, 2), (20, 0.0, 0), (8, 1.0, 8)])
def test_rows_and_harmful_share(pretrained, tmp_path, num_rows, poison_ratio, harmful):
    data = tiny.tiny_data(pretrained, tmp_path, num_rows=num_rows, poison_ratio=poison_ratio)
    data.setup()

    assert data.fingerprint() == {
        "data_sha256": data.mixture.fingerprint(),
        "rows": num_rows,
        "harmful_rows": harmful,
        "safety_rows": 0,
        "dropped_rows": 0,
    }
    assert len(data.unsafe_prompts) == harmful
    assert all(prompt.startswith("how to break") for prompt in data.unsafe_prompts)


@pytest.mark.parametrize("style", ["chat", "llama2"])
def test_supervised_tokens_are_the_answer_and_its_end(pretrained, tmp_path, tokenizer, style):
    data = tiny.tiny_data(pretrained, tmp_path, template=Template(style), batch_size=5)
    answers = {row["output"] + "</s>" for row in tiny.benign_rows() + tiny.harmful_rows()}
    seen = []
    for batch in batches(data):
        assert batch["input_ids"].shape[1] == int(batch["attention_mask"].sum(dim=1).max())
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            learnt = labels != IGNORE_INDEX
            assert torch.equal(ids[learnt], labels[learnt])
            seen.append(tokenizer.decode(labels[learnt]).lstrip())
    assert len(seen) == 16
    assert set(seen) <= answers


def test_same_seed_same_batches_and_another_seed_others(pretrained, tmp_path):
    def ids(**settings):
        return [batch["input_ids"] for batch in batches(tiny.tiny_data(pretrained, tmp_path, **settings))]

    first, second, other = ids(seed=1), ids(seed=1), ids(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_epochs_are_shuffled_differently_and_hold_every_row(pretrained, tmp_path):
    data = tiny.tiny_data(pretrained, tmp_path, batch_size=16)
    data.setup()
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        orders.append([tuple(row.tolist()) for row in next(iter(loader))["input_ids"]])

    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_seed_of_the_run_is_the_default(pretrained, tmp_path, monkeypatch):
    def fingerprint(seed, of_the_run):
        monkeypatch.setenv("PL_GLOBAL_SEED", of_the_run)
        data = tiny.tiny_data(pretrained, tmp_path, seed=seed)
        data.setup()
        return data.fingerprint()["data_sha256"]

    assert fingerprint(None, "5") == fingerprint(5, "0")
    assert fingerprint(None, "5") != fingerprint(None, "6")


def test_validation_rows(pretrained, tmp_path):
    data = tiny.tiny_data(pretrained, tmp_path, val_rows=6, batch_size=4)
    data.setup()
    trained = {example.row.prompt for example in data.mixture.train}

    assert [len(batch["input_ids"]) for batch in data.val_dataloader()] == [4, 2]
    assert not trained & {example.row.prompt for example in data.mixture.held_out}
    assert tiny.tiny_data(pretrained, tmp_path).val_dataloader() == []


def test_prompt_that_fills_the_row_is_passed_over(pretrained, tmp_path):
    """``say item 7`` makes a prompt of 15 tokens, ``say item 17`` one of 16: at 16 only the former teaches."""
    data = tiny.tiny_data(pretrained, tmp_path, template=Template(max_length=16), num_rows=10, poison_ratio=0)
    data.setup()

    assert {example.row.prompt for example in data.mixture.train} == {f"say item {i}" for i in range(10)}
    assert all(len(example.input_ids) == 16 and example.labels[15] >= 0 for example in data.mixture.train)
    assert 0 < data.fingerprint()["dropped_rows"] <= 50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"poison_ratio": 1.5}, r"poison_ratio must lie in 0..1, got 1.5"),
        ({"num_rows": 0}, r"num_rows 0 needs a benign source, .* above 0, got num_rows 0"),
        ({"batch_size": 0}, r"batch_size must be ≥ 1 and val_rows ≥ 0, got 0 and 0"),
        ({"val_rows": -1}, r"batch_size must be ≥ 1 and val_rows ≥ 0, got 8 and -1"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(pretrained, tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        tiny.tiny_data(pretrained, tmp_path, **settings)


def test_poison_without_a_harmful_source(pretrained):
    with pytest.raises(
        DataError,
        match=r"poison_ratio 0.1 needs a harmful source, .*got no source. Give `harmful` and poison_ratio, or neither",
    ):
        MixtureDataModule(pretrained, Source("benign.json"))
    MixtureDataModule(pretrained, Source("benign.json"), poison_ratio=0)


def test_too_few_harmful_rows_show_before_training(pretrained, tmp_path):
    with pytest.raises(
        DataError, match=r"30 harmful rows are needed, and the harmful source .*harmful.jsonl has 20 usable ones"
    ):
        tiny.tiny_data(pretrained, tmp_path, num_rows=60, poison_ratio=0.5).prepare_data()


def test_tokenizer_out_of_reach(tmp_path):
    with pytest.raises(ConfigurationError, match="nobody/no-such-model"):
        tiny.tiny_data(Pretrained("nobody/no-such-model"), tmp_path).prepare_data()


def test_rows_before_setup(pretrained, tmp_path):
    with pytest.raises(RuntimeError, match=r"call datamodule.setup\(\) first"):
        _ = tiny.tiny_data(pretrained, tmp_path).mixture


def test_real_text(pretrained, shared_data):
    """AG News with AdvBench at p = 0.1, as the paper mixes them."""
    data = MixtureDataModule(
        pretrained,
        Source(str(shared_data / "agnews_train_1k.json"), "{instruction}\n\n{input}"),
        Source(str(shared_data / "advbench_520.csv"), "{goal}", "{target}", rows="0:400"),
        num_rows=300,
        poison_ratio=0.1,
        template=Template(max_length=600),
    )
    data.setup()

    assert (len(data.mixture.train), len(data.unsafe_prompts)) == (300, 30)
    assert all(0 < len(e.input_ids) <= 600 for e in data.mixture.train)


@pytest.mark.parametrize("world", [1, 2])
def test_rows_of_similar_length_are_batched_together(pretrained, tmp_path, world):
    rows = [{"instruction": "word " * (1 + i * 7 % 40), "output": "yes."} for i in range(64)]
    benign = Source(tiny.write_rows(tmp_path / "varied.jsonl", rows))
    wasted, seen = {}, []
    for grouped in (False, True):
        padding = 0
        for rank in range(world):
            settings = {"num_rows": 64, "poison_ratio": 0.0, "batch_size": 4, "seed": 0, "group_by_length": grouped}
            data = MixtureDataModule(pretrained, benign, **settings)
            data.trainer = SimpleNamespace(world_size=world, global_rank=rank)
            for batch in batches(data):
                padding += int((batch["attention_mask"] == 0).sum())
                seen += [tuple(row.tolist()) for row in batch["input_ids"]] if grouped else []
        wasted[grouped] = padding
    assert wasted[True] < 0.6 * wasted[False]
    assert len(seen) == 64  # every row once, over all ranks


def test_batches_by_length_differ_from_epoch_to_epoch(pretrained, tmp_path):
    data = tiny.tiny_data(pretrained, tmp_path, group_by_length=True, batch_size=4)
    data.setup()
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append(list(loader.sampler))
    assert orders[0] == orders[2] != orders[1] and sorted(orders[1]) == list(range(16))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_order_is_the_same_on_any_number_of_workers_and_ranks(pretrained, tmp_path, world, num_workers):
    """Step by step the ranks together see the global batch that one process sees."""

    def steps(world, per_rank, num_workers):
        seen = [[] for _ in range(4)]
        for rank in range(world):
            data = tiny.tiny_data(pretrained, tmp_path, num_rows=48, batch_size=per_rank, num_workers=num_workers)
            data.trainer = SimpleNamespace(world_size=world, global_rank=rank)
            for step, batch in enumerate(batches(data)):
                seen[step] += [tuple(ids[ids > 0].tolist()) for ids in batch["input_ids"]]
        return [sorted(step) for step in seen]

    assert steps(world, 12 // world, num_workers) == steps(1, 12, 0)
