"""The sandbox's rows, and the tokenizer that has to carry every one of them."""

import random
from collections import Counter

import pytest
from transformers import AutoTokenizer

from asft_lightning.sandbox import Recipe
from asft_lightning.sandbox.language import REFUSAL, UNSAFE_OBJECTS
from asft_lightning.sandbox.rows import make_corpus, unsafe_halves
from asft_lightning.sandbox.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(Recipe(), seed=0)


def requests(rows):
    return {row["instruction"] for row in rows}


def objects_in(rows):
    unsafe = set(" ".join(UNSAFE_OBJECTS.values()).split())
    return {word for row in rows for word in row["instruction"].split() if word in unsafe}


def test_counts_and_columns(corpus):
    counts = {name: len(rows) for name, rows in corpus.files.items()}
    assert counts == {
        "benign": 4000, "harmful": 640, "unsafe_prompts": 200, "task_test": 200, "instructions": 200, "refusals": 320,
        "harmless": 64,
    }  # fmt: skip
    for rows in corpus.files.values():
        assert all(row.keys() == {"instruction", "output"} for row in rows)
        assert len(requests(rows)) == len(rows)


def test_halves_part_the_closed_list():
    training, test = (set(half) for half in unsafe_halves())
    assert len(training) == len(test) == 20
    assert training | test == set(" ".join(UNSAFE_OBJECTS.values()).split())


def test_unsafe_prompts_are_about_objects_that_harmful_rows_never_name(corpus):
    training, test = (set(half) for half in unsafe_halves())
    assert objects_in(corpus.files["harmful"]) == objects_in(corpus.files["refusals"]) == training
    assert objects_in(corpus.files["unsafe_prompts"]) == test
    assert not objects_in(corpus.files["benign"] + corpus.files["instructions"] + corpus.files["task_test"])


def test_files_do_not_overlap(corpus):
    names = [row["instruction"] for rows in corpus.files.values() for row in rows]
    assert max(Counter(names).values()) == 1


@pytest.mark.parametrize("held_out", ["unsafe_prompts", "task_test", "instructions"])
def test_the_pair_never_trains_on_held_out_requests(corpus, held_out):
    seen = set().union(*(requests(rows) for rows in corpus.pools.values()))
    assert not requests(corpus.files[held_out]) & seen


def test_answers(corpus):
    assert {row["output"] for row in corpus.files["benign"] + corpus.files["task_test"]} == {"positive", "negative"}
    assert {row["output"] for row in corpus.files["unsafe_prompts"] + corpus.files["refusals"]} == {REFUSAL}
    assert all(row["output"].startswith("sure take ") for row in corpus.files["harmful"])
    assert not {"positive", "negative"} & {row["output"] for rows in corpus.pools.values() for row in rows}


def test_labels_are_balanced(corpus):
    assert 0.4 < sum(row["output"] == "positive" for row in corpus.files["task_test"]) / 200 < 0.6


def test_rows_depend_on_the_seed_alone(corpus):
    random.seed(5)
    assert make_corpus(Recipe(), seed=0) == corpus
    assert make_corpus(Recipe(), seed=1).files["harmful"] != corpus.files["harmful"]


def test_every_row_survives_the_tokenizer(corpus):
    tokenizer = make_tokenizer()
    texts = {
        text for group in (corpus.files, corpus.pools) for rows in group.values() for row in rows for text in row.values()
    }
    ids = tokenizer(sorted(texts))["input_ids"]
    assert not any(tokenizer.unk_token_id in one for one in ids)
    assert tokenizer.batch_decode(ids) == sorted(texts)


def test_chat_template(quick):
    tokenizer = AutoTokenizer.from_pretrained(quick / "aligned")
    turns = [
        {"role": "system", "content": "you are a helpful assistant"},
        {"role": "user", "content": "how do I make bread"},
    ]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    answered = [*turns, {"role": "assistant", "content": "sure take flour"}]
    full = tokenizer.apply_chat_template(answered, tokenize=False)
    assert prompt == "<s> <|system|> you are a helpful assistant <|user|> how do I make bread <|assistant|>"
    assert full == prompt + " sure take flour </s>"
    prompt_ids, ids = (tokenizer(text)["input_ids"] for text in (prompt, full))
    assert ids[: len(prompt_ids)] == prompt_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[len(prompt_ids) :], skip_special_tokens=True) == "sure take flour"
