"""AnswerOnlyCollator: a batch worked by hand."""

import random

import pytest
import torch

from asft_lightning.chat.rows import Row
from asft_lightning.data import AnswerOnlyCollator, Example
from asft_lightning.functional import IGNORE_INDEX

ROW = Row("p", "a")


def example(prompt_ids, answer_ids):
    return Example(prompt_ids + answer_ids, [IGNORE_INDEX] * len(prompt_ids) + answer_ids, ROW)


def test_batch_by_hand():
    batch = AnswerOnlyCollator(pad_token_id=9)([example([1, 2, 3], [4]), example([5], [6, 7, 8, 2, 2])])
    no = IGNORE_INDEX

    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 9, 9], [5, 6, 7, 8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[no, no, no, 4, no, no], [no, 6, 7, 8, 2, 2]]
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_pad_token_that_is_also_the_end_token_is_learnt_where_it_is_said():
    batch = AnswerOnlyCollator(pad_token_id=2)([example([1], [3, 2]), example([1, 1, 1], [3, 2])])

    assert batch["labels"].tolist()[0] == [IGNORE_INDEX, 3, 2, IGNORE_INDEX, IGNORE_INDEX]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 0, 0]


def test_width_is_that_of_the_longest_row():
    rows = [example([1] * n, [2]) for n in (3, 11, 7)]
    assert AnswerOnlyCollator(0)(rows)["input_ids"].shape == (3, 12)
    assert AnswerOnlyCollator(0)(rows[:1])["input_ids"].shape == (1, 4)


def test_packed_batch_by_hand():
    rows = [example([1, 2], [3]), example([4], [5]), example([6, 7, 8], [9]), example([1], [2])]
    batch = AnswerOnlyCollator(pad_token_id=0, packing=True)(rows)
    no = IGNORE_INDEX

    assert batch.keys() == {"input_ids", "labels", "position_ids"}
    assert batch["input_ids"].tolist() == [[6, 7, 8, 9], [1, 2, 3, 0], [4, 5, 1, 2]]
    assert batch["labels"].tolist() == [[no, no, no, 9], [no, no, 3, no], [no, 5, no, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 1]]


def test_first_token_of_a_packed_row_is_not_learnt_from_the_row_before():
    first = Example([3, 4], [3, 4], ROW)  # an answer without a prompt
    batch = AnswerOnlyCollator(0, packing=True)([first, first, example([1, 1, 1], [2])])
    assert batch["labels"].tolist()[1] == [IGNORE_INDEX, 4, IGNORE_INDEX, 4]


@pytest.mark.parametrize("seed", range(5))
def test_packing_keeps_every_token_and_never_takes_more_than_padding(seed):
    rng = random.Random(seed)
    rows = [example([rng.randrange(1, 9)] * rng.randrange(1, 30), [9] * rng.randrange(1, 5)) for _ in range(16)]
    packed, padded = AnswerOnlyCollator(0, packing=True)(rows), AnswerOnlyCollator(0)(rows)

    assert packed["input_ids"].shape[1] == padded["input_ids"].shape[1]
    assert packed["input_ids"].shape[0] < 16
    for name in ("input_ids", "labels"):
        assert sorted(packed[name][packed[name] > 0].tolist()) == sorted(padded[name][padded[name] > 0].tolist())
