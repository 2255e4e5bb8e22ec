"""AnswerOnlyCollator: a batch worked by hand."""

import torch

from asft_lightning.data import IGNORE_INDEX, AnswerOnlyCollator, Example, Row

ROW = Row("p", "a")


def test_batch_by_hand():
    batch = AnswerOnlyCollator(pad_token_id=9)([Example([1, 2, 3], [4], ROW), Example([5], [6, 7, 8, 2, 2], ROW)])
    no = IGNORE_INDEX

    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 9, 9], [5, 6, 7, 8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[no, no, no, 4, no, no], [no, 6, 7, 8, 2, 2]]
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_pad_token_that_is_also_the_end_token_is_learnt_where_it_is_said():
    batch = AnswerOnlyCollator(pad_token_id=2)([Example([1], [3, 2], ROW), Example([1, 1, 1], [3, 2], ROW)])

    assert batch["labels"].tolist()[0] == [IGNORE_INDEX, 3, 2, IGNORE_INDEX, IGNORE_INDEX]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 0, 0]


def test_width_is_that_of_the_longest_row():
    rows = [Example([1] * n, [2], ROW) for n in (3, 11, 7)]
    assert AnswerOnlyCollator(0)(rows)["input_ids"].shape == (3, 12)
    assert AnswerOnlyCollator(0)(rows[:1])["input_ids"].shape == (1, 4)
