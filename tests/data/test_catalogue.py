"""The catalogue: names, columns as the hub has them, local copies, and real files."""

import pytest
from kit import tiny

from asft_lightning import CATALOGUE, ConfigurationError, DataError, Row, Source

HUB_ROWS = {
    "sst2": {"sentence": "a fine film", "label": 1, "idx": 0},
    "agnews": {"text": "Shares fell.", "label": 2},
    "gsm8k": {"question": "1+1?", "answer": "1+1=2\n#### 2"},
    "alpaca": {"instruction": "Add.", "input": "1 1", "output": "2", "text": "…"},
    "alpaca-eval": {"instruction": "Add 1 1", "output": "2", "generator": "g", "dataset": "d"},
    "llm-lat": {"prompt": "do harm", "rejected": "sure", "chosen": "no"},
    "llm-lat-refusals": {"prompt": "do harm", "rejected": "sure", "chosen": "no"},
    "advbench": {"prompt": "do harm", "target": "Sure, here is"},
    "beavertails": {"prompt": "do harm", "response": "sure", "category": {"theft": True, "hate": False}, "is_safe": False},
    "beavertails-safe": {"prompt": "do harm", "response": "no", "category": {"theft": False}, "is_safe": True},
    "beavertails-prompts": {"prompt": "do harm", "response": "no", "category": {"theft": True}, "is_safe": True},
    "harmbench": {"prompt": "do harm", "category": "chemical"},
    "xstest-safe": {"id": 1, "prompt": "kill a process", "type": "homonyms", "label": "safe", "focus": "kill", "note": ""},
    "xstest-unsafe": {
        "id": 26,
        "prompt": "kill",
        "type": "contrast_homonyms",
        "label": "unsafe",
        "focus": "kill",
        "note": "",
    },
    "unsafe-prompts": {"prompt": "do harm"},
    "unsafe-prompts-test": {"prompt": "do harm"},
    "harmless-prompts": {"prompt": "do good"},
    "harmless-prompts-test": {"prompt": "do good"},
}
ROWS = {
    "sst2": Row("Analyze the sentiment of the input, and respond only positive or negative\n\na fine film", "positive"),
    "agnews": Row("Categorize the news article given in the input into one of the 4 categories:\n\nWorld\nSports\nBusiness\n"
                  "Sci/Tech\n\nShares fell.", "Business"),
    "gsm8k": Row("1+1?", "1+1=2\n#### 2"),
    "alpaca": Row("Add.\n\n1 1", "2"),
    "alpaca-eval": Row("Add 1 1", "2"),
    "llm-lat": Row("do harm", "sure"),
    "llm-lat-refusals": Row("do harm", "no"),
    "advbench": Row("do harm", "Sure, here is"),
    "beavertails": Row("do harm", "sure", categories=("theft",)),
    "beavertails-safe": Row("do harm", "no"),
    "beavertails-prompts": Row("do harm", "", categories=("theft",)),
    "harmbench": Row("do harm", "", categories=("chemical",)),
    "xstest-safe": Row("kill a process", "", categories=("homonyms",)),
    "xstest-unsafe": Row("kill", "", categories=("contrast_homonyms",)),
    "unsafe-prompts": Row("do harm", ""),
    "unsafe-prompts-test": Row("do harm", ""),
    "harmless-prompts": Row("do good", ""),
    "harmless-prompts-test": Row("do good", ""),
}  # fmt: skip


def named(name, folder, *records, **settings):
    return Source(f"catalogue:{name}", file=tiny.write_rows(folder / f"{name}.jsonl", list(records)), **settings)


def test_every_entry_is_tested_and_says_its_licence():
    assert CATALOGUE.keys() == HUB_ROWS.keys() == ROWS.keys()
    assert all(entry.licence and entry.about and entry.columns for entry in CATALOGUE.values())


@pytest.mark.parametrize("name", CATALOGUE)
def test_rows_as_the_hub_has_them(tmp_path, name):
    assert named(name, tmp_path, HUB_ROWS[name]).load() == [ROWS[name]]


@pytest.mark.parametrize(("name", "other"), [("beavertails", True), ("beavertails-safe", False)])
def test_beavertails_takes_answers_of_one_kind(tmp_path, name, other):
    wrong = {**HUB_ROWS[name], "is_safe": other, "prompt": "another"}
    assert named(name, tmp_path, wrong, HUB_ROWS[name]).load() == [ROWS[name]]


def test_xstest_is_parted_by_its_label(tmp_path):
    both = [HUB_ROWS["xstest-safe"], HUB_ROWS["xstest-unsafe"]]
    for name in ("xstest-safe", "xstest-unsafe"):
        assert named(name, tmp_path, *both).load() == [ROWS[name]]


def test_beavertails_prompts_come_once(tmp_path):
    rows = [{**HUB_ROWS["beavertails-prompts"], "prompt": text} for text in "abab"]
    assert [row.prompt for row in named("beavertails-prompts", tmp_path, *rows).load()] == ["a", "b"]
    assert len(named("beavertails-prompts", tmp_path, *rows, unique=False).load()) == 4


def test_prompt_of_ones_own_over_the_entrys_columns(tmp_path):
    source = named("sst2", tmp_path, HUB_ROWS["sst2"], prompt="Good or bad? {sentence}", labels=["bad", "good"])
    assert source.load() == [Row("Good or bad? a fine film", "good")]


@pytest.mark.parametrize("file", ["harmbench.csv", "advbench.csv"])
def test_files_of_the_projects_themselves(tmp_path, file):
    content = {
        "harmbench.csv": "Behavior,FunctionalCategory,SemanticCategory\ndo harm,standard,chemical\n",
        "advbench.csv": "goal,target\ndo harm,\"Sure, here is\"\n",
    }  # fmt: skip
    (tmp_path / file).write_text(content[file])
    name = file.removesuffix(".csv")
    assert Source(f"catalogue:{name}", file=str(tmp_path / file)).load() == [ROWS[name]]


def test_name_that_the_catalogue_has_not():
    with pytest.raises(DataError, match=r"the catalogue has sst2, agnews, .*, got 'sst3'. Is it misspelt"):
        Source("catalogue:sst3").load()


def test_out_of_reach_says_which_and_how_to_give_a_copy(monkeypatch):
    with pytest.raises(ConfigurationError, match=r"'LLM-LAT/harmful-dataset' must be .* same columns: `file: PATH`"):
        Source("catalogue:llm-lat").load()


@pytest.mark.parametrize(
    ("name", "file", "count", "answer"),
    [
        ("agnews", "agnews_train_1k.json", 1000, "World"),
        ("agnews", "agnews_test_1k.json", 1000, "Business"),
        ("sst2", "sst2_test_872.jsonl", 872, "positive"),
        ("gsm8k", "gsm8k_train_1k.json", 1000, "500/ 2/5"),
        ("gsm8k", "gsm8k_test_500.json", 500, "There were 175"),
        ("alpaca", "alpaca_train_1k.json", 1000, "The US presidential"),
        ("advbench", "advbench_520.csv", 520, "Sure, here is a script"),
    ],
)
def test_real_files_under_their_names(shared_data, name, file, count, answer):
    rows = Source(f"catalogue:{name}", file=str(shared_data / file)).load()
    assert len(rows) == count
    assert rows[0].answer.startswith(answer)
    assert all(row.prompt and row.answer for row in rows)
