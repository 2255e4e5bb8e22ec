"""EndlessBatches: every row as often as any other, on any number of ranks, from the number alone."""

from collections import Counter

import pytest
from kit import tiny
from kit.tiny import tiny_data

from asft_lightning import Source
from asft_lightning.data import EndlessBatches


def batches(world=1, rank=0, batch_size=4, seed=0, rows=10):
    return EndlessBatches(list(range(rows)), batch_size, list, seed, world, rank)


@pytest.mark.parametrize(("world", "batch_size", "rows"), [(1, 4, 10), (2, 3, 7), (3, 1, 5), (1, 8, 3)])
def test_every_row_once_a_turn(world, batch_size, rows):
    ranks = [batches(world, rank, batch_size, rows=rows) for rank in range(world)]
    together = [row for number in range(rows) for own in ranks for row in own[number]]  # batch_size·world turns
    turns = [together[i : i + rows] for i in range(0, len(together), rows)]
    assert len(together) == rows * batch_size * world
    assert all(sorted(turn) == list(range(rows)) for turn in turns)
    assert all(len(own[number]) == batch_size for own in ranks for number in range(5))


def test_order_changes_with_turn_and_seed_alone():
    first = [batches()[i] for i in range(20)]
    assert [batches()[i] for i in reversed(range(20))] == first[::-1]
    assert [batches(seed=1)[i] for i in range(20)] != first
    orders = [tuple(row for batch in first for row in batch)[i : i + 10] for i in range(0, 80, 10)]
    assert len(set(orders)) > 5


def test_safety_rows_apart_are_not_mixed_in_but_counted(pretrained, tmp_path):
    refusals = [{"instruction": f"how to open safe {i}", "output": "no"} for i in range(8)]
    settings = {"safety": Source(tiny.write_rows(tmp_path / "s.jsonl", refusals)), "safety_rows": 6}
    apart = tiny_data(pretrained, tmp_path, **settings, safety_apart=True)
    mixed, plain = tiny_data(pretrained, tmp_path, **settings), tiny_data(pretrained, tmp_path)
    for data in (apart, mixed, plain):
        data.setup()

    assert apart.mixture.train == plain.mixture.train
    assert mixed.safety_batches is plain.safety_batches is None
    assert apart.describe()["rows"] == mixed.describe()["rows"] == {"benign": 12, "safety": 6, "harmful": 4}
    assert apart.unsafe_prompts == mixed.unsafe_prompts
    assert apart.fingerprint() | {"data_sha256": ""} == mixed.fingerprint() | {"data_sha256": ""}
    assert apart.mixture.fingerprint() != plain.mixture.fingerprint()
    batch = apart.safety_batches[0]
    assert batch.keys() == {"input_ids", "labels", "attention_mask"} and len(batch["labels"]) == 8
    seen = Counter(example.row.prompt for example in apart.mixture.apart)
    assert len(seen) == 6 and set(seen.values()) == {1}
