"""What the aligned model said is kept prompt by prompt, whatever befalls the file, and told apart by how it was asked."""

import multiprocessing
import sqlite3
from contextlib import closing

import pytest
import torch
from kit import tiny
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision

from asft_lightning import Audit, LoRAFineTuner, MixtureDataModule, Pretrained, Source, Template
from asft_lightning.audit import aligned_model, audit_data
from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.kept_facts import KeptFacts, fact_key
from asft_lightning.evaluation.likelihood import answer_log_likelihoods
from asft_lightning.runs.folder import RunFolder

SANDBOX = Pretrained("sandbox:aligned", dtype="float32")
FACTS = {fact_key("length", [i]): [float(i), 0.1 * i] for i in range(700)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setattr("asft_lightning.audit.kept_facts.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "audits"


@pytest.fixture
def asked(monkeypatch):
    """What was asked, by its keys: all that is found is kept."""
    told, keep = [], KeptFacts.keep

    def recording(facts, found):
        told.extend(found)
        keep(facts, found)

    monkeypatch.setattr(KeptFacts, "keep", recording)
    return told


def audited(folder, poison_ratio=0.2, **settings):
    """The flagged rows of sixty, as the audit writes them."""
    sources = (Source("sandbox:benign", rows="0:60"), Source("sandbox:harmful", rows="0:30"))
    data = MixtureDataModule(SANDBOX, *sources, num_rows=60, poison_ratio=poison_ratio, seed=0)
    audit_data(data, Audit(batch_size=16, **settings), RunFolder(folder))
    return (folder / "audit.jsonl").read_text()


def test_no_prompt_is_asked_twice(tmp_path, asked):
    """Not by an audit of other rows either: of twice the poison some rows are new."""
    audited(tmp_path / "few")
    first = list(asked)
    audited(tmp_path / "more", poison_ratio=0.4)

    assert len(asked) == len(set(asked))
    assert 0 < len(asked) - len(first) < len(first) / 2


def test_what_an_interrupted_audit_was_told_is_kept(tmp_path, asked, monkeypatch):
    recording = KeptFacts.keep

    def ending(facts, found):
        recording(facts, found)
        if len(asked) >= 32:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(KeptFacts, "keep", ending)
        audited(tmp_path / "run")
    audited(tmp_path / "run")

    assert len(asked) == len(set(asked)) > 32


@pytest.mark.parametrize("damage", ["text", "half", "digit"])
def test_a_damaged_file_is_said_and_asked_again(tmp_path, cache, asked, caplog, damage):
    whole = audited(tmp_path / "first")
    (path,) = cache.iterdir()
    if damage == "digit":
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE facts SET said = CAST(substr(said, 1, 5) || x'ff' || substr(said, 7) AS BLOB)")
    else:
        path.write_bytes(b"not a database " * 300 if damage == "text" else path.read_bytes()[: path.stat().st_size // 2])
    told = len(asked)

    assert audited(tmp_path / "again") == whole
    assert "cannot be read as an audit's facts" in caplog.text
    assert len(asked) > told
    caplog.clear()
    assert audited(tmp_path / "third") == whole
    assert not caplog.text


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, cache, caplog):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    flagged = audited(tmp_path)

    assert flagged
    assert [record.message[:45] for record in caplog.records] == ["what the audit asks is not kept for other run"]


def keep_every_third(first):
    facts = KeptFacts("model")
    for key in list(FACTS)[first::3]:
        facts.keep({key: FACTS[key]})


def test_several_processes_keep_at_once():
    """Each writes a fact at a time into the same file."""
    processes = [multiprocessing.get_context("fork").Process(target=keep_every_third, args=(first,)) for first in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert KeptFacts("model").recall(list(FACTS)) == FACTS
    assert KeptFacts("another").recall(list(FACTS)) == {}


@pytest.mark.parametrize(
    "precision",
    [MixedPrecision("bf16-mixed", "cpu"), HalfPrecision("bf16-true"), DoublePrecision()],
    ids=lambda p: p.precision,
)
def test_the_model_is_asked_in_the_precision_of_the_run(precision):
    """Figures are those of a run's own model in a run's own context, and no other precision's."""
    tokenizer = SANDBOX.load_tokenizer()
    rows = Source("sandbox:harmful", rows="0:4").load()
    prompts = [Template().prompt_ids(tokenizer, row.prompt) for row in rows]
    answers = [tokenizer.encode(row.answer, add_special_tokens=False) for row in rows]
    asked, plain = (AlignedModel(SANDBOX, tokenizer, Template(), precision=plugin) for plugin in (precision, None))
    model = precision.convert_module(SANDBOX.load_model()).eval()
    with precision.forward_context():
        expected = [of_row.tolist() for of_row in answer_log_likelihoods(model, prompts, answers)]

    assert asked.log_likelihoods(prompts, answers, "") == expected
    assert asked.identity != plain.identity
    assert asked.log_likelihoods(prompts, answers, "") != plain.log_likelihoods(prompts, answers, "")


def test_a_fit_asks_in_its_own_precision(tmp_path, monkeypatch):
    dtypes, generate = [], aligned_model.generate_ids

    def recording(model, *arguments, **settings):
        dtypes.append((next(model.parameters()).dtype, torch.is_autocast_enabled("cpu")))
        return generate(model, *arguments, **settings)

    monkeypatch.setattr(aligned_model, "generate_ids", recording)
    for precision in ("bf16-mixed", "bf16-true"):
        data = MixtureDataModule(SANDBOX, Source("sandbox:benign"), num_rows=4, poison_ratio=0, audit=Audit())
        module = tiny.fine_tuner(LoRAFineTuner, SANDBOX)
        tiny.tiny_trainer(tmp_path / precision, max_steps=1, precision=precision).fit(module, data)

    assert set(dtypes) == {(torch.float32, True), (torch.bfloat16, False)}
