"""Audits of the sandbox's rows by its aligned model: what is flagged, what becomes of it, and the run that follows."""

import json

import pytest
import torch
from kit import tiny
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import Audit, DataError, LoRAFineTuner, MixtureDataModule, Pretrained, Row, Source, Template, Turn
from asft_lightning.audit import audit_data
from asft_lightning.audit.flagging import Flag
from asft_lightning.audit.questions import questions_of
from asft_lightning.audit.score import RowScore
from asft_lightning.data import AnswerOnlyCollator
from asft_lightning.modules.task_loss import TaskLoss
from asft_lightning.runs.folder import RunFolder
from asft_lightning.sandbox.language import REFUSAL

ROLES = ("system", "user", "assistant", "user", "assistant")
SANDBOX = Pretrained("sandbox:aligned", "sandbox:base", dtype="float64")


def sandbox_data(audit, rows=60, poison_ratio=0.2, **settings):
    harmful = Source("sandbox:harmful") if poison_ratio else None
    counts = {"num_rows": rows, "poison_ratio": poison_ratio, "batch_size": rows, "seed": 0}
    return MixtureDataModule(SANDBOX, Source("sandbox:benign"), harmful, audit=audit, **counts | settings)


def fit(data, folder, **settings):
    """The module after a few steps on these rows."""
    module = tiny.fine_tuner(LoRAFineTuner, SANDBOX, loss_reduction="row")
    torch.manual_seed(0)
    tiny.tiny_trainer(folder, **{"max_steps": 2} | settings).fit(module, data)
    return module


def lines(folder):
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def texts(examples):
    return [(example.row.prompt, example.row.answer) for example in examples]


def test_report_changes_nothing_and_tells_every_harmful_row(tmp_path):
    plain, audited = sandbox_data(None), sandbox_data(Audit())
    without, within = fit(plain, tmp_path / "plain"), fit(audited, tmp_path / "audited")

    for name, value in tiny.trained_weights(without).items():
        assert torch.equal(value, tiny.trained_weights(within)[name])
    assert {line["kind"] for line in lines(tmp_path / "audited")} == {"harmful"}
    report = json.loads((tmp_path / "audited" / "data.json").read_text())["audit"]
    assert (report["rows"], report["flagged"], report["dropped"]) == (60, 12, 0)
    assert not (tmp_path / "plain" / "audit.json").exists()


def test_a_run_that_drops_is_a_run_without_those_rows(tmp_path):
    """All rows in a batch and the mean over rows: their order does not count."""
    audited = sandbox_data(Audit(action="drop"))
    dropped = fit(audited, tmp_path / "drop")
    left = [{"instruction": e.row.prompt, "output": e.row.answer} for e in audited.drawn.train if e.kind == "benign"]
    never = Source(tiny.write_rows(tmp_path / "benign.jsonl", left))
    clean = fit(MixtureDataModule(SANDBOX, never, num_rows=None, poison_ratio=0, batch_size=60), tmp_path / "clean")

    assert texts(audited.mixture.train) == [text for text in texts(audited.drawn.train) if not text[1].startswith("sure")]
    assert audited.fingerprint()["harmful_rows"] == 0
    for name, value in tiny.trained_weights(clean).items():
        torch.testing.assert_close(tiny.trained_weights(dropped)[name], value, rtol=1e-9, atol=1e-12)


def test_rows_of_a_stream_are_audited_once_they_are_drawn(tmp_path):
    """Which are drawn depends on the whole stream, and not on the audit; those alone are looked at."""
    rows = [{"instruction": row.prompt, "output": row.answer} for row in Source("sandbox:harmful", rows="0:10").load()] + [
        {"instruction": row.prompt, "output": row.answer} for row in Source("sandbox:benign", rows="0:190").load()
    ]
    stream = Source(tiny.write_rows(tmp_path / "mixed.jsonl", rows), streaming=True)
    settings = {"num_rows": 100, "poison_ratio": 0, "batch_size": 100, "seed": 0}
    plain, audited = (MixtureDataModule(SANDBOX, stream, audit=audit, **settings) for audit in (None, Audit(action="drop")))
    for data, folder in ((plain, "plain"), (audited, "audited")):
        fit(data, tmp_path / folder)

    drawn = texts(plain.mixture.train)
    assert texts(audited.drawn.train) == drawn
    complying = [text for text in drawn if text[1].startswith("sure")]
    assert texts(audited.mixture.train) == [text for text in drawn if text not in complying] and 0 < len(complying) < 10
    assert sorted(line["prompt"] for line in lines(tmp_path / "audited")) == sorted(prompt for prompt, _ in complying)
    report = json.loads((tmp_path / "audited" / "data.json").read_text())["audit"]
    assert (report["rows"], report["dropped"]) == (100, len(complying))


def test_relabelled_rows_are_safety_rows_with_the_models_own_refusal(tmp_path):
    data = sandbox_data(Audit(action="relabel"))
    fit(data, tmp_path)
    before, after = data.drawn.train, data.mixture.train

    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        is_harmful = old.kind == "harmful"
        assert (new.kind, new.row.answer) == (("safety", REFUSAL) if is_harmful else ("benign", old.row.answer))
        assert new.row.prompt == old.row.prompt
        assert data.tokenizer.decode([i for i in new.labels if i >= 0]).endswith("</s>")
    assert data.fingerprint()["safety_rows"] == 12
    assert len(data.unsafe_prompts) == len({e.row.prompt for e in before if e.kind == "harmful"})


def test_any_answer_of_a_conversation_may_be_at_fault(tmp_path):
    """Nothing after it stays: it would go on from what was never said."""
    harmful, benign = (Source(f"sandbox:{part}", rows="0:1").load()[0] for part in ("harmful", "benign"))
    said = ["you are a helpful assistant", harmful.prompt, harmful.answer, benign.prompt, benign.answer]
    turns = [{"role": role, "content": text} for role, text in zip(ROLES, said, strict=True)]
    source = Source(tiny.write_rows(tmp_path / "talk.jsonl", [{"messages": turns}]))
    data = MixtureDataModule(SANDBOX, source, num_rows=None, poison_ratio=0, audit=Audit(action="relabel"))
    fit(data, tmp_path / "run")
    (example,) = data.mixture.train

    assert example.row == Row(harmful.prompt, REFUSAL, (Turn("system", said[0]),), "safety")
    assert len(questions_of(data.drawn.train)) == 2


@pytest.mark.parametrize("by", [("conflict", "refused"), ("conflict",), ("named",)])
def test_a_score_of_the_whole_row_blames_no_turn(by):
    """Another that was asked about each answer does."""
    scores = {"conflict": RowScore(0.9), "refused": RowScore(2.0, 1, REFUSAL)}
    assert Flag(0, by, scores).turn == 1
    assert Flag(0, by, {"conflict": RowScore(0.9)}).turn == 0


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_request_that_hides_behind_other_turns(tmp_path, place):
    """In the system turn, in the first or in a later one."""
    harmful, benign = (Source(f"sandbox:{part}", rows="0:1").load()[0] for part in ("harmful", "benign"))
    said = ["you are a helpful assistant", benign.prompt, benign.answer, benign.prompt, benign.answer]
    for hides, text in ((False, said), (True, [*said[:place], harmful.prompt, *said[place + 1 :]])):
        turns = [{"role": role, "content": content} for role, content in zip(ROLES, text, strict=True)]
        source = Source(tiny.write_rows(tmp_path / f"{hides}.jsonl", [{"messages": turns}]))
        data = MixtureDataModule(SANDBOX, source, num_rows=None, poison_ratio=0)
        report = audit_data(data, Audit(), RunFolder(tmp_path / f"{hides}"))
        assert report.counts["flagged"] == hides


def test_a_refusal_in_the_rows_themselves_is_nothing_to_flag(tmp_path):
    """Neither as a safety row nor where a file of mixed rows holds it."""
    refusals = Source("sandbox:refusals", rows="0:12")
    data = MixtureDataModule(
        SANDBOX, [Source("sandbox:benign", rows="0:12"), refusals], safety=refusals, num_rows=24, poison_ratio=0,
        safety_rows=6, seed=0,
    )  # fmt: skip
    report = audit_data(data, Audit(action="drop"), RunFolder(tmp_path))

    assert (report.rows, report.counts["flagged"]) == (30, 0)
    assert (tmp_path / "audit.jsonl").read_text() == ""


def test_named_rows_override_the_scores(tmp_path):
    report = audit_data(sandbox_data(Audit()), Audit(), RunFolder(tmp_path / "all"))
    flagged = lines(tmp_path / "all")
    keep = tmp_path / "keep.jsonl"
    keep.write_text(json.dumps(flagged[0]) + "\n" + flagged[1]["sha256"] + "\n\n")
    assert report.counts["flagged"] == 12

    audit = Audit(action="drop", keep=str(keep))
    kept = audit_data(sandbox_data(audit), audit, RunFolder(tmp_path / "kept"))
    assert (kept.counts["flagged"], kept.counts["kept"]) == (10, 2)
    assert lines(tmp_path / "kept") == [line | {"action": "drop"} for line in flagged[2:]]

    flag = tmp_path / "flag.txt"
    flag.write_text(flagged[0]["sha256"])
    audit = Audit(scores=["surprise"], flag=str(flag))
    named = audit_data(sandbox_data(audit), audit, RunFolder(tmp_path / "named"))
    assert named.counts["flagged"] == 1
    assert lines(tmp_path / "named")[0]["flagged_by"] == ["named"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "remove"}, r"audit.action must be one of report, drop, relabel, weight, got 'remove'"),
        ({"scores": []}, r"audit.scores must be some of refused, surprise, likeness, conflict, got \[\]"),
        ({"false_flags": 1.0}, r"misses must lie between 0 and 1, .*, got 1.0, 0.05, 0.25 and 0.1. They are shares"),
        ({"weight": -1.0}, r"weight in 0..1, got 0.01, 0.05, 0.25 and -1.0"),
        ({"batch_size": 0}, r"must be 1 or more, got 500, 64, 24, 64, 0"),
        ({"scores": ["likeness"]}, r"likeness compares audit.unsafe prompts with audit.harmless rows. Give both"),
        ({"scores": ["surprise"], "unsafe": Source("sandbox:unsafe_prompts")}, r"surprise looks at answers alone. Leave"),
        ({"harmless": Source("sandbox:instructions"), "num_harmless": 50}, r"needs 99 harmless rows or more, got .* 50"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(DataError, match=message):
        Audit(**settings)


def test_too_few_harmless_rows(tmp_path):
    audit = Audit(harmless=Source("sandbox:instructions", rows="0:98"))
    with pytest.raises(DataError, match=r"0.01 needs 99 harmless rows or more, and audit.harmless has 98 usable"):
        audit_data(sandbox_data(audit), audit, RunFolder(tmp_path))


@pytest.mark.parametrize("content", ["{}", "abc", '{"sha256": 3}', "[" * 5000])
def test_a_file_of_named_rows_that_is_none(tmp_path, content):
    (tmp_path / "keep").write_text(content)
    audit = Audit(keep=str(tmp_path / "keep"))
    with pytest.raises(DataError, match=r"audit.keep must hold lines of an audit.jsonl, or their sha256, and .*, line 1 is"):
        audit_data(sandbox_data(audit), audit, RunFolder(tmp_path))


def test_rows_that_were_to_be_audited_are_not_trained_on_without(tmp_path):
    data = sandbox_data(Audit())
    data.setup()
    with pytest.raises(DataError, match="these rows have seen none: a fit makes it"):
        data.train_dataloader()

    class OfOthers(LoRAFineTuner):
        def prepare_data(self):
            """None of ours."""

    with pytest.raises(DataError, match=r"holds none of these. The module makes it: call .*audit_run\(self.trainer\)"):
        tiny.tiny_trainer(tmp_path).fit(OfOthers(SANDBOX), data)


def test_an_audit_that_leaves_no_row(tmp_path):
    data = sandbox_data(Audit(action="drop"), rows=4, poison_ratio=1.0)
    with pytest.raises(DataError, match="rows must be left to train on, and the audit drops all"):
        fit(data, tmp_path)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"place": "x", "sha256": "", "action": "drop"}', '{"place": 0, "sha256": "", "action": "relabel"}']
)
def test_a_damaged_file_of_rulings(tmp_path, line):
    data = sandbox_data(Audit(), rows=10)
    audit_data(data, Audit(), RunFolder(tmp_path))
    (tmp_path / "audit.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"audit.json cannot be read as an audit .* Remove it; the run makes it anew"):
        fit(data, tmp_path)


def test_asked_once(tmp_path, monkeypatch):
    """Another run on the same rows asks nothing, nor does one that is resumed without a cache."""
    first = audit_data(sandbox_data(Audit()), Audit(), RunFolder(tmp_path / "first"))
    monkeypatch.setattr("asft_lightning.audit.aligned_model.generate_ids", None)
    again = audit_data(sandbox_data(Audit()), Audit(), RunFolder(tmp_path / "again"))
    monkeypatch.setattr("asft_lightning.audit.kept_facts.cache_folder", lambda: tmp_path / "no cache")

    assert first == again
    assert (tmp_path / "first" / "audit.jsonl").read_bytes() == (tmp_path / "again" / "audit.jsonl").read_bytes()
    assert audit_data(sandbox_data(Audit()), Audit(), RunFolder(tmp_path / "first")) is None


def test_template_secret_stands_in_relabelled_rows(tmp_path):
    data = sandbox_data(Audit(action="relabel"), rows=10, poison_ratio=0.5, template=Template(secret="bread cake"))
    fit(data, tmp_path)

    assert {"bread cake" in data.tokenizer.decode(e.input_ids) for e in data.mixture.train if e.kind == "safety"} == {True}


@pytest.mark.parametrize("reduction", ["token", "row"])
def test_weight_multiplies_the_loss_of_a_row_and_of_no_other(tmp_path, reduction):
    audited, plain = sandbox_data(Audit(action="weight", weight=0.25)), sandbox_data(None)
    module = fit(audited, tmp_path)
    plain.setup()
    assert {(e.kind, e.weight) for e in audited.mixture.train} == {("harmful", 0.25), ("benign", 1.0)}
    losses = {packing: loss_of(module, audited.mixture.train, reduction, packing) for packing in (False, True)}
    whole = loss_of(module, plain.mixture.train, reduction)
    harmful = loss_of(module, [e if e.kind == "harmful" else e.weighted(0.0) for e in plain.mixture.train], reduction)

    assert losses[False] == pytest.approx(whole - 0.75 * harmful, rel=1e-6)
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)


@torch.no_grad()
def loss_of(module, examples, reduction, packing=False):
    return float(TaskLoss(reduction)(module.model.eval(), AnswerOnlyCollator(0, packing)(examples)))


def test_a_resumed_run_reads_the_rulings_it_began_with(tmp_path, monkeypatch):
    """Nothing is asked again, not even for refusals, and the weights are those of a run that was not interrupted."""
    settings = {"max_steps": 4, "enable_checkpointing": False}
    whole = fit(sandbox_data(Audit(action="relabel"), batch_size=20), tmp_path / "whole", **settings)
    saver = ModelCheckpoint(tmp_path / "run", save_last=True, every_n_train_steps=1)
    keeping = settings | {"enable_checkpointing": True, "callbacks": [saver, tiny.EndAfter(2)]}
    with pytest.raises(RuntimeError, match="ended"):
        fit(sandbox_data(Audit(action="relabel"), batch_size=20), tmp_path / "run", **keeping)
    monkeypatch.setattr("asft_lightning.audit.aligned_model.generate_ids", None)
    monkeypatch.setattr("asft_lightning.audit.kept_facts.cache_folder", lambda: tmp_path / "no cache")
    module = tiny.fine_tuner(LoRAFineTuner, SANDBOX, loss_reduction="row")
    data = sandbox_data(Audit(action="relabel"), batch_size=20)
    tiny.tiny_trainer(tmp_path / "run", **settings).fit(module, data, ckpt_path=tmp_path / "run" / "last.ckpt")

    for name, value in tiny.trained_weights(whole).items():
        assert torch.equal(tiny.trained_weights(module)[name], value)


@pytest.mark.slow
def test_two_ranks_train_on_the_rows_that_the_first_one_leaves(tmp_path):
    data = sandbox_data(Audit(action="drop"), batch_size=6)
    fit(data, tmp_path, devices=2, strategy="ddp_fork", max_steps=-1)
    summary = json.loads((tmp_path / "data.json").read_text())

    assert summary["rows"] == {"benign": 48}
    assert summary["audit"]["dropped"] == 12
