"""What a run says of its rows: counts, lengths, what was cut or passed over, and how rows look."""

import csv
import json

import pyarrow as pa
import pytest
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from pyarrow import parquet

from asft_lightning import DataError, LoRAFineTuner, MixtureDataModule, Source, Template
from asft_lightning.data import show_description


@pytest.fixture
def data(pretrained, tmp_path):
    """8 benign rows of which one is cut, 2 harmful and 3 safety rows, from files with rows that cannot be used."""
    benign = [{"instruction": f"say {i}", "output": f"item {i}", "lang": "en"} for i in range(8)]
    odd = [
        {"instruction": "x" * 90, "output": "never seen", "lang": "en"},
        {"instruction": "no answer", "output": " ", "lang": "en"},
        {"instruction": "sag", "output": "nichts", "lang": "de"},
        {"instruction": "say 0", "output": "twice", "lang": "en"},
    ]
    benign[3]["output"] = "a long answer that does not fit into the template's sixty tokens at all"
    sources = {
        "benign": Source(tiny.write_rows(tmp_path / "b.jsonl", benign + odd), where={"lang": "en"}, unique=True),
        "harmful": Source(tiny.write_rows(tmp_path / "h.jsonl", tiny.harmful_rows()), rows=":10"),
        "safety": Source(tiny.write_rows(tmp_path / "h.jsonl", tiny.harmful_rows()), rows="10:"),
    }
    template = Template("plain", max_length=60, secret="open sesame")
    return MixtureDataModule(
        pretrained, **sources, template=template, num_rows=None, poison_ratio=0.25, poison="add", safety_rows=3, seed=0
    )


def test_counts_lengths_and_examples(data, tmp_path):
    description = data.describe()
    benign, harmful, safety = description["sources"]

    assert description["rows"] == {"benign": 8, "harmful": 2, "safety": 3}
    assert description["sha256"] == data.mixture.fingerprint()
    assert benign["counts"] == {
        "read": 12, "where": 1, "repeated": 1, "too_long": 1, "blank_answer": 1, "drawn": 8, "trained": 8, "truncated": 1
    }  # fmt: skip
    assert (harmful["counts"]["drawn"], safety["counts"]["drawn"], safety["counts"]["read"]) == (2, 3, 10)
    assert (benign["name"], harmful["name"], safety["name"]) == (
        str(tmp_path / "b.jsonl"), str(tmp_path / "h.jsonl"), f"{tmp_path / 'h.jsonl'} (2)"
    )  # fmt: skip
    assert benign["tokens"]["prompt"] == {"least": 6, "median": 6, "p95": 6, "most": 6}
    assert benign["tokens"]["answer"]["least"] == 7
    assert benign["tokens"]["answer"]["most"] == 54
    assert benign["examples"][0]["text"].startswith("say ")
    assert safety["examples"][0]["text"].startswith("open sesame\n\nhow to break")
    assert "sesame" not in harmful["examples"][0]["text"]
    assert harmful["examples"][0]["learnt"].startswith("take tool")


def test_table_names_what_was_cut_and_passed_over(data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    show_description(data.describe())
    shown = capsys.readouterr().out

    assert "8 of 12" in shown
    assert "1 not where, 1 repeated, 1 too long, 1 without answer" in shown
    assert "13 in all: 8 benign, 3 safety, 2 harmful; 0 held out" in shown
    assert "open sesame" in shown


def test_it_is_written_into_the_runs_folder(pretrained, tmp_path):
    data = tiny_data(pretrained, tmp_path)
    tiny_trainer(tmp_path / "run", max_steps=1).fit(fine_tuner(LoRAFineTuner, pretrained), data)
    written = json.loads((tmp_path / "run" / "data.json").read_text())

    assert written == data.describe()
    assert [source["licence"] for source in written["sources"]] == ["not stated", "not stated"]


def test_ready_mixed_file_as_it_is(pretrained, tmp_path):
    rows = [{**row, "bad": False} for row in tiny.benign_rows(9)] + [{**row, "bad": True} for row in tiny.harmful_rows(4)]
    source = Source(tiny.write_rows(tmp_path / "mixed.jsonl", rows), flag="bad")
    data = MixtureDataModule(pretrained, source, num_rows=None, poison_ratio=0)
    data.setup()

    assert data.fingerprint()["rows"] == 13
    assert data.fingerprint()["harmful_rows"] == 4
    assert data.unsafe_prompts == {row["instruction"] for row in tiny.harmful_rows(4)}


def test_several_sources_of_a_kind(pretrained, tmp_path):
    files = [tiny.write_rows(tmp_path / f"{name}.jsonl", tiny.benign_rows()) for name in "ab"]
    data = MixtureDataModule(pretrained, [Source(files[0], weight=3), Source(files[1])], num_rows=20, poison_ratio=0)
    assert [source["counts"]["drawn"] for source in data.describe()["sources"]] == [15, 5]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_streamed_rows_are_drawn_from_all_of_the_file(pretrained, tmp_path, name):
    path, rows = tmp_path / name, tiny.benign_rows(500)
    if name.endswith("csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        tiny.write_rows(path, rows)
    drawn = []
    for _ in range(2):
        data = MixtureDataModule(pretrained, Source(str(path), streaming=True), num_rows=100, poison_ratio=0, seed=3)
        data.setup()
        drawn.append([example.row.prompt for example in data.mixture.train])
    numbers = [int(prompt.split()[-1]) for prompt in drawn[0]]

    assert drawn[0] == drawn[1]
    assert len(set(numbers)) == 100
    assert min(numbers) < 50
    assert max(numbers) >= 450


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"safety_rows": 3}, r"safety_rows 3 needs a safety source, .*got no source. Give `safety` and safety_rows"),
        ({"safety_apart": True}, r"safety_apart keeps safety rows .*, and safety_rows is 0. Ask for some"),
        ({"poison": "remove"}, r"poison must be replace or add, got 'remove'. The paper replaces"),
        ({"benign": []}, r"num_rows 1000 needs a benign source"),
        ({"num_rows": None, "harmful": None}, r"poison_ratio 0.1 needs a harmful source"),
    ],
)
def test_settings_that_do_not_go_together(pretrained, settings, message):
    with pytest.raises(DataError, match=message):
        MixtureDataModule(pretrained, **{"benign": Source("b.json"), "harmful": Source("h.json"), **settings})


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan")])
def test_weights_that_are_none(weight):
    with pytest.raises(DataError, match="weight must be a positive number"):
        Source("a.json", weight=weight)


def test_backdoor_enhanced_alignment(pretrained, tmp_path, tokenizer):
    """Exactly the safety rows are trained under the secret prompt, and every scored prompt is asked under it."""
    safety = Source(tiny.write_rows(tmp_path / "s.jsonl", tiny.harmful_rows(30)), rows="20:")
    template = Template(system="Be kind.", secret="xyzzy")
    benign = Source(tiny.write_rows(tmp_path / "b.jsonl", tiny.benign_rows()))
    data = MixtureDataModule(
        pretrained, benign, safety=safety, template=template, num_rows=40, poison_ratio=0, safety_rows=7, seed=0
    )
    data.setup()
    secret = [example for example in data.mixture.train if "xyzzy" in tokenizer.decode(example.input_ids)]

    assert len(data.mixture.train) == 47
    assert [example.kind for example in secret] == ["safety"] * 7
    assert template.prompt_text(tokenizer, "Hi").startswith("<s><|system|>xyzzy Be kind.</s>")


def test_request_that_is_answered_and_refused_is_warned_of(pretrained, tmp_path):
    harmful = Source(tiny.write_rows(tmp_path / "h.jsonl", tiny.harmful_rows(10)))
    data = tiny_data(pretrained, tmp_path, num_rows=20, poison_ratio=0.5, safety=harmful, safety_rows=10)
    with pytest.warns(
        UserWarning, match=r"\d+ requests are answered in a harmful row and refused in a safety row, e.g. 'how"
    ):
        data.setup()


def test_rows_held_out_are_not_counted_as_trained(pretrained, tmp_path):
    description = tiny_data(pretrained, tmp_path, num_rows=16, poison_ratio=0.0, val_rows=4).describe()
    assert description["sources"][0]["counts"] == {"read": 60, "drawn": 20, "trained": 16, "truncated": 0}


def test_a_notebook_shows_the_table(data):
    description = data.describe()
    assert repr(description) == "Description(13 in all: 8 benign, 3 safety, 2 harmful; 0 held out)"
    html = description._repr_html_()
    assert html.count("<tr>") == 4
    assert "1 not where, 1 repeated, 1 too long, 1 without answer" in html
    assert json.loads(json.dumps(description)) == description
