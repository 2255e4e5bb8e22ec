"""What the audit's scores are made of, against one row at a time in float64, and their thresholds."""

import json
import math

import pytest
import torch
from kit import tiny

from asft_lightning import Audit, DataError, MixtureDataModule, Pretrained, Source, Template
from asft_lightning.audit import audit_data
from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.likeness import Likeness
from asft_lightning.audit.questions import questions_of
from asft_lightning.audit.refused import Refused
from asft_lightning.audit.surprise import Surprise
from asft_lightning.audit.thresholds import threshold_by_harmless, threshold_by_unsafe
from asft_lightning.evaluation.likelihood import answer_log_likelihoods
from asft_lightning.functional import log_odds
from asft_lightning.runs.folder import RunFolder

SANDBOX = Pretrained("sandbox:aligned", dtype="float64")


@pytest.fixture(scope="module")
def rows():
    """Ten benign and six harmful rows, in token ids."""
    sources = {"benign": Source("sandbox:benign", rows="0:10"), "harmful": Source("sandbox:harmful", rows="0:6")}
    data = MixtureDataModule(SANDBOX, **sources, num_rows=16, poison_ratio=0.375, seed=0)
    data.setup()
    return data


@pytest.fixture(scope="module")
def aligned(rows):
    return AlignedModel(SANDBOX, rows.tokenizer, Template(), batch_size=5)


def alone(model, prompt, answer):
    """log p of each token of the answer to one prompt, without batch and padding."""
    chances = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return torch.stack([chances[len(prompt) + i - 1, token] for i, token in enumerate(answer)])


@torch.no_grad()
def test_likelihoods_are_those_of_each_row_alone(rows, aligned):
    asked = questions_of(rows.drawn.train)
    prompts, answers = [q.prompt for q in asked], [q.answer[: 1 + i % 4] for i, q in enumerate(asked)]
    found = answer_log_likelihoods(aligned.model, prompts, answers, batch_size=5)

    for prompt, answer, given in zip(prompts, answers, found, strict=True):
        torch.testing.assert_close(given, alone(aligned.model, prompt, answer), rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_likelihoods_of_a_model_that_cannot_be_told_where_logits_are_wanted(rows, aligned, monkeypatch):
    (question, *_) = questions_of(rows.drawn.train)
    expected = answer_log_likelihoods(aligned.model, [question.prompt], [question.answer])
    forward = aligned.model.forward
    monkeypatch.setattr(aligned.model, "forward", lambda input_ids, attention_mask, use_cache: forward(input_ids))

    torch.testing.assert_close(answer_log_likelihoods(aligned.model, [question.prompt], [question.answer]), expected)


@torch.no_grad()
def test_refused_is_the_log_odds_of_the_refusals_opening(rows, aligned):
    for example, score in zip(rows.drawn.train, Refused()(aligned, rows.drawn.train), strict=True):
        if example.kind == "benign":
            assert score == (float("-inf"), None, "")
            continue
        (question,) = questions_of([example])
        refusal = rows.tokenizer.encode(score.said, add_special_tokens=False)
        chance = alone(aligned.model, question.prompt, refusal[:8]).sum().exp()
        assert score.said.startswith("I cannot help")
        assert score.value == pytest.approx(float(chance.log() - (1 - chance).log()), rel=1e-9)


def test_refused_does_not_depend_on_the_rows_before(rows, aligned, monkeypatch):
    """Where answers begin as refusals do, all are read: the first ten of these comply."""
    by_kind = sorted(rows.drawn.train, key=lambda example: example.kind)
    assert [example.kind for example in by_kind] == ["benign"] * 10 + ["harmful"] * 6
    expected = Refused()(aligned, by_kind)
    (first,) = {aligned.first_tokens([q.prompt], "first")[0] for q in questions_of(by_kind[10:])}
    monkeypatch.setattr(aligned, "first_tokens", lambda prompts, _: [first] * len(prompts))

    assert Refused()(aligned, by_kind) == expected
    assert [score.value > float("-inf") for score in expected] == [False] * 10 + [True] * 6


@torch.no_grad()
def test_surprise_is_how_much_likelier_its_own_answer_is(rows, aligned):
    for example, score in zip(rows.drawn.train, Surprise()(aligned, rows.drawn.train), strict=True):
        (question,) = questions_of([example])
        own = rows.tokenizer.encode(score.said, add_special_tokens=False)
        likelier = (
            alone(aligned.model, question.prompt, own).mean() - alone(aligned.model, question.prompt, question.answer).mean()
        )
        assert score.value == pytest.approx(float(likelier), rel=1e-9)


def test_log_odds_at_the_ends():
    assert log_odds(-50.0) == pytest.approx(-50.0)
    assert log_odds(-1e-12) == pytest.approx(-math.log(1e-12))
    assert math.isfinite(log_odds(0.0))


@pytest.mark.parametrize(("count", "rate"), [(99, 0.01), (150, 0.01), (199, 0.01), (19, 0.05), (50, 0.1)])
def test_thresholds_hold_their_rate(count, rate):
    """Each of n + 1 rows left out in turn: of those, the share beyond the others' threshold is the rate at most."""
    scores = torch.randperm(count + 1, generator=torch.Generator().manual_seed(0)).double().tolist()
    beyond = sum(score > threshold_by_harmless(scores[:i] + scores[i + 1 :], rate) for i, score in enumerate(scores))

    assert rate / 2 < beyond / (count + 1) <= rate
    with pytest.raises(DataError, match=r"needs .* harmless rows or more, and audit.harmless has"):
        threshold_by_harmless(scores[: round(1 / rate) - 2], rate)


def test_harmless_rows_set_the_threshold(tmp_path):
    """Where the trusted rows are refused as the harmful ones are, hardly any of those is flagged."""
    audit = Audit(harmless=Source("sandbox:harmful", rows="300:500"), num_harmless=200, false_flags=0.02)
    data = MixtureDataModule(
        SANDBOX, Source("sandbox:benign"), Source("sandbox:harmful", rows="0:200"), num_rows=200, poison_ratio=0.5, seed=0
    )
    report = audit_data(data, audit, RunFolder(tmp_path))

    assert report.thresholds["refused"] > 0
    assert report.rates == {"false_flags": 0.02}
    assert report.counts["flagged"] <= 10
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_an_unsafe_prompt_that_is_refused_is_missed_as_rarely_as_stated(rate):
    """Each of 120 refused ones in turn against the threshold of the others; those that are not refused do not count."""
    scores = torch.randperm(120, generator=torch.Generator().manual_seed(0)).double().tolist()
    limits = [threshold_by_unsafe([*scores[:i], -math.inf, *scores[i + 1 :]], rate) for i in range(120)]
    missed = sum(score <= limit for score, limit in zip(scores, limits, strict=True))

    assert rate / 2 < missed / 120 <= rate
    assert threshold_by_unsafe(scores[:3], rate) < min(scores[:3])


def test_a_model_that_is_unsure_of_the_task_and_refuses_it_loses_no_row_of_it(tmp_path, capsys):
    """The task's prompts end in an unsafe request, and the model refuses most, but less surely than a request alone."""
    instructions, requests = (
        Source("sandbox:instructions", rows="0:60").load(),
        Source("sandbox:harmful", rows="200:260").load(),
    )
    asked = [f"{harmless.prompt} {unsafe.prompt}" for harmless, unsafe in zip(instructions, requests, strict=True)]
    task = Source(tiny.write_rows(tmp_path / "task.jsonl", [{"instruction": text, "output": "fine"} for text in asked]))
    counts = {"num_rows": 60, "poison_ratio": 1 / 3, "seed": 0}
    data = MixtureDataModule(SANDBOX, task, Source("sandbox:harmful", rows="0:200"), **counts)
    flagged = {}
    for name, audit in {"alone": Audit(), "known": Audit(unsafe=Source("sandbox:unsafe_prompts"))}.items():
        report = audit_data(data, audit, RunFolder(tmp_path / name))
        report.show()
        flagged[name] = {source["kind"]: source["flagged"] for source in report.sources}
    said = capsys.readouterr().out

    assert flagged["alone"]["benign"] > 30
    assert flagged["alone"]["harmful"] == 20
    assert flagged["known"]["benign"] == 0
    assert flagged["known"]["harmful"] >= 17
    assert report.rates == {"misses": 0.05}
    assert said.count("may refuse the task itself. Give audit.unsafe prompts") == 1


def test_where_the_model_answers_the_task_any_refusal_counts(tmp_path):
    """However surely it refuses the unsafe prompts that are known."""
    counts = {"num_rows": 40, "poison_ratio": 0.2, "seed": 0}
    data = MixtureDataModule(SANDBOX, Source("sandbox:benign"), Source("sandbox:harmful", rows="0:200"), **counts)
    report = audit_data(data, Audit(unsafe=Source("sandbox:unsafe_prompts"), misses=0.9), RunFolder(tmp_path))

    assert (report.counts["flagged"], report.thresholds, report.rates) == (8, {"refused": -math.inf}, {})


def test_unsafe_prompts_that_the_model_answers_tell_nothing(tmp_path):
    data = MixtureDataModule(SANDBOX, Source("sandbox:harmful"), num_rows=20, poison_ratio=0)
    with pytest.raises(DataError, match=r"it refuses none of these 64\. Give others"):
        audit_data(data, Audit(unsafe=Source("sandbox:benign")), RunFolder(tmp_path))


def test_likeness_tells_rows_by_prompts_like_theirs(tmp_path):
    """The unsafe prompts are about other objects than the harmful rows; the harmless ones are requests and the task's."""
    kinds = (Source("sandbox:instructions"), Source("sandbox:benign", rows="3000:3200"))
    trusted = [{"instruction": row.prompt, "output": row.answer} for source in kinds for row in source.load()]
    harmless = Source(tiny.write_rows(tmp_path / "harmless.jsonl", trusted))
    references = {"unsafe": Source("sandbox:unsafe_prompts"), "harmless": harmless}
    audit = Audit(scores=["likeness"], false_flags=0.02, num_harmless=400, **references)
    data = MixtureDataModule(
        SANDBOX, Source("sandbox:benign", rows="0:3000"), Source("sandbox:harmful"), num_rows=100, poison_ratio=0.3
    )
    audit_data(data, audit, RunFolder(tmp_path))
    flagged = [json.loads(line)["kind"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]

    assert flagged.count("harmful") >= 28
    assert flagged.count("benign") <= 2


def test_harmless_rows_that_a_score_comes_from_set_no_threshold(rows):
    prompts = [tuple(question.prompt) for question in questions_of(rows.drawn.train)]
    score = Likeness(unsafe=(), harmless=tuple(prompts[::2]))
    assert [tuple(questions_of([e])[0].prompt) for e in score.fresh(rows.drawn.train)] == prompts[1::2]
