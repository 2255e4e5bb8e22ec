"""Very many rows: little memory for each, the same hash in pieces, and Python's collector left as it was."""

import gc
import tracemalloc
from collections import Counter
from hashlib import sha256

import pytest
from kit import tiny

from asft_lightning import DataError, Template
from asft_lightning.chat.rows import Row
from asft_lightning.chat.template import Rendered
from asft_lightning.data import Example, Pool
from asft_lightning.data.draw import draw
from asft_lightning.functional import IGNORE_INDEX

TOKENS = 200


def encode(rows):
    """Token ids that no two rows share an object of, as a tokenizer gives them."""
    half = TOKENS // 2
    ids = [[100_000 + len(row.prompt) + i for i in range(TOKENS)] for row in rows]
    return [Rendered(row_ids, [IGNORE_INDEX] * half + row_ids[half:]) for row_ids in ids]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_row_takes_four_bytes_a_token_beside_its_text(streamed):
    rows = [Row("x", "y", kind="benign")] * 4000
    pool = Pool(iter(rows) if streamed else rows)
    tracemalloc.start()
    try:
        drawn = draw(pool, encode, 4000, seed=0)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept / len(drawn) < 4 * TOKENS + 500
    assert peak - kept < 128 * TOKENS * 300  # one batch in lists of int


def test_an_example_gives_back_what_it_was_made_of():
    ids, labels = [0, 5, 2**31 - 1, 0], [IGNORE_INDEX, IGNORE_INDEX, 2**31 - 1, 0]
    example = Example(ids, labels, Row("a", "b"))

    assert (example.input_ids, example.labels) == (ids, labels)


@pytest.mark.parametrize("count", [1, 128, 200, 2500])
def test_what_is_passed_over_is_counted_up_to_the_last_row_drawn(count):
    """Every third row has no answer; those after the last one drawn are not looked at, however many are encoded at once."""
    rows = [Row(str(i), "y" if i % 3 else "") for i in range(4000)]
    pool = Pool(rows)
    drawn = draw(pool, encode, count, seed=3)
    everything = [example.row.prompt for example in draw(Pool(rows), encode, None, seed=3)]

    assert [example.row.prompt for example in drawn] == everything[:count]
    assert pool.counts["drawn"] == count
    assert abs(pool.counts["blank_answer"] - count / 2) < 5 * count**0.5


def test_one_pass_counts_what_it_passes_over_once():
    pool = Pool(Row(str(i), "y" if i % 2 else "") for i in range(5000))
    everything = draw(pool, encode, None, seed=0)

    assert pool.counts == Counter(drawn=2500, blank_answer=2500)
    few = draw(Pool(Row(str(i), "y" if i % 2 else "") for i in range(5000)), encode, 40, seed=0)
    assert few == everything[:40]


def test_hash_of_texts_is_that_of_all_of_them_as_one(pretrained, tmp_path):
    data = tiny.tiny_data(pretrained, tmp_path)
    data.setup()
    texts = [tuple(example.row) for example in data.mixture.trained]

    assert data.state_dict()["texts_sha256"] == sha256(repr(texts).encode()).hexdigest()


@pytest.mark.parametrize("poison_ratio", [0.25, 1.0])
def test_collector_is_left_as_it_was(pretrained, tmp_path, poison_ratio):
    before = gc.get_threshold()
    data = tiny.tiny_data(pretrained, tmp_path, num_rows=60, poison_ratio=poison_ratio, template=Template(max_length=100))
    if poison_ratio == 1:
        with pytest.raises(DataError, match="60 harmful rows are needed"):
            data.setup()
    else:
        data.setup()

    assert gc.get_threshold() == before
