"""LabelledDataModule: rows with several labels, held-out rows, orders; and what cannot be learnt from."""

import pytest
from kit import tiny

from asft_lightning import LabelledDataModule, Source
from asft_lightning.data import LabelledRow
from asft_lightning.errors import DataError

LABELS = ["fraud", "theft"]


def source(folder, name="rows", count=10, **settings):
    kinds = [{"fraud": True, "theft": False}, ["theft", "fraud"], "theft", None]
    rows = [{"q": f"q{i}", "a": f"a{i}", "kinds": kinds[i % 4]} for i in range(count)]
    return Source(tiny.write_rows(folder / f"{name}.jsonl", rows), "{q}", "{a}", **{"category": "kinds", **settings})


def test_labels_of_every_form(tmp_path):
    data = LabelledDataModule(LABELS, [source(tmp_path), source(tmp_path, "harmless", 2, category=None)])
    data.setup()

    assert data.rows["train"][:4] == [
        LabelledRow("q0", "a0", (True, False)),
        LabelledRow("q1", "a1", (True, True)),
        LabelledRow("q2", "a2", (False, True)),
        LabelledRow("q3", "a3", (False, False)),
    ]
    assert data.rows["train"][10] == LabelledRow("q0", "a0", (False, False))
    assert data.shares() == [pytest.approx(6 / 12), pytest.approx(5 / 12)]
    assert data.val_dataloader() == data.test_dataloader() == []


def test_held_out_rows_are_left_out_and_follow_from_the_seed(tmp_path):
    def drawn(seed):
        data = LabelledDataModule(LABELS, source(tmp_path), val_rows=4, seed=seed)
        data.prepare_data()
        return data.rows

    rows = drawn(1)
    assert len(rows["val"]) == 4 and len(rows["train"]) == 6
    assert not set(rows["val"]) & set(rows["train"])
    assert drawn(1) == rows and drawn(2) != rows


def test_an_epochs_order_follows_from_the_seed_and_goes_on(tmp_path):
    def batches(skip=0):
        data = LabelledDataModule(LABELS, source(tmp_path), batch_size=4, seed=3)
        data.setup()
        loader = data.train_dataloader()
        loader.load_state_dict({"batches": skip})
        return [[row.prompt for row in batch] for batch in loader]

    whole = batches()
    assert [len(batch) for batch in whole] == [4, 4, 2]
    order = [prompt for batch in whole for prompt in batch]
    assert sorted(order) == [f"q{i}" for i in range(10)] != order
    assert batches(skip=1) == whole[1:]


@pytest.mark.parametrize(("settings", "message"), [
    ({"labels": []}, r"labels must be different names, at least one, got \[\]"),
    ({"labels": ["fraud", "fraud"]}, r"labels must be different names, .*got \['fraud', 'fraud'\]"),
    ({"labels": ["fraud"]}, r"labels must be among fraud, got 'theft'. Name all labels"),
    ({"val_rows": 10}, "val_rows must leave rows to train on, got 10 of 10. Ask for fewer"),
    ({"batch_size": 0}, "batch_size must be ≥ 1, val_rows ≥ 0, and 0 beside val, got 0 and 0"),
    ({"val_rows": 2, "val": Source("x.jsonl")}, "and 0 beside val, got 16 and 2. Leave val_rows out"),
])  # fmt: skip
def test_what_cannot_be_learnt_from(tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        LabelledDataModule(**{"labels": LABELS, "train": source(tmp_path), **settings}).setup()


def test_rows_of_similar_length_come_together(tmp_path):
    rows = [{"q": "q" * (1 + i * 7 % 96), "a": "a", "kinds": "theft"} for i in range(96)]
    path = tiny.write_rows(tmp_path / "long.jsonl", rows)
    texts = Source(path, "{q}", "{a}", category="kinds")

    def padding(is_grouped):
        data = LabelledDataModule(LABELS, texts, val=texts, batch_size=4, seed=0, group_by_length=is_grouped)
        data.setup()
        batches = [[len(row.prompt) for row in batch] for batch in data.train_dataloader()]
        assert sorted(length for batch in batches for length in batch) == list(range(1, 97))
        scored = [len(row.prompt) for batch in data.val_dataloader() for row in batch]
        assert scored == sorted(scored, reverse=True)
        return sum(max(batch) - length for batch in batches for length in batch)

    assert padding(is_grouped=True) < padding(is_grouped=False) / 2
