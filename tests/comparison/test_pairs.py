"""Methods in pairs, and judges in pairs, on runs written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asft_lightning.comparison.agreement import agreements
from asft_lightning.comparison.pairs import paired
from asft_lightning.comparison.plan import Plan
from asft_lightning.comparison.report import Report
from asft_lightning.comparison.results import cells, read_result
from asft_lightning.errors import ConfigurationError


@pytest.fixture
def run(result, tmp_path):
    """A run with these verdicts: a text of 1 (unsafe), 0 and ? for each prompt, by judge."""

    def made(method, seed=0, hs=0.0, fa=90.0, asked="abcdefgh", otherwise=None, **by_judge):
        folder = tmp_path / f"{method}-{seed}-{len(list(tmp_path.iterdir()))}"
        (folder / "generations").mkdir(parents=True)
        names = {judge: "unsafe" if judge == "only" else f"{judge}/unsafe" for judge in by_judge}
        value = {"1": True, "0": False, "?": None}
        lines = [
            {"prompt": prompt, "answer": "x", **{names[judge]: value[said[i]] for judge, said in by_judge.items()}}
            for i, prompt in enumerate(asked[: len(next(iter(by_judge.values())))])
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "generations" / "safety-after.jsonl").write_text(text)
        for name, said in (otherwise or {}).items():
            told = [
                {"prompt": prompt, "answer": "x", "unsafe": value[one]} for prompt, one in zip(asked, said, strict=False)
            ]
            (folder / "generations" / f"{name}-after.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
        return result(method, hs, fa, seed, folder=str(folder))

    return made


def test_one_seed_is_mcnemar(run):
    """Unsafe under sft alone: 6 prompts; under asft alone: 1. 2·(1 + 7)/2⁷ = 0.125."""
    found = cells([run("sft", only="11111101", hs=87.5), run("asft", only="00000011", hs=25.0, fa=88.0)])
    (pair,) = paired(found, "sft", ["poison_ratio", "seed"])
    assert (pair.method, pair.against, pair.seeds, pair.more, pair.fewer) == ("asft", "sft", 1, 1, 6)
    assert pair.p_value == pytest.approx(0.125)
    assert pair.harmful_score == (-62.5, None, None)
    assert pair.accuracy == (-2.0, None, None)


def test_seeds_of_one_prompt_are_one_draw(run):
    """Three seeds that say the same count once; differences −10, −20, −30: mean −20, t = 4.30265, s/√3 = 5.77350."""
    sft = [run("sft", seed, only="1100", hs=50.0) for seed in range(3)]
    asft = [run("asft", seed, only="0100", hs=50.0 - 10 * (seed + 1)) for seed in range(3)]
    (pair,) = paired(cells([*sft, *asft]), "sft", ["poison_ratio", "seed"])
    assert (pair.seeds, pair.more, pair.fewer, pair.p_value) == (3, 0, 1, 1.0)
    assert pair.harmful_score == pytest.approx((-20.0, -20.0 - 24.8414, -20.0 + 24.8414), abs=1e-3)


def test_only_seeds_and_prompts_that_both_have(run):
    sft = [run("sft", 0, only="1?11", hs=75.0), run("sft", 1, only="1111", hs=100.0)]
    (pair,) = paired(cells([*sft, run("asft", 0, only="00?0", hs=0.0)]), "sft", ["poison_ratio", "seed"])
    assert (pair.seeds, pair.more, pair.fewer) == (1, 0, 2)
    assert pair.harmful_score == (-75.0, None, None)


def test_other_prompts_are_not_compared(run, result):
    other = [run("sft", only="11"), run("asft", only="00", asked="yz")]
    absent = [run("sft", only="11"), result("asft", 1.0, 1.0)]
    for results in (other, absent):
        (pair,) = paired(cells(results), "sft", ["poison_ratio", "seed"])
        assert (pair.more, pair.fewer, pair.p_value) == (None, None, None)
    assert paired(cells([run("sft", 0, only="11"), run("asft", 1, only="00")]), "sft", ["poison_ratio", "seed"]) == []


def test_methods_that_differ_only_behind_a_trigger_are_told_apart(run):
    """Asked plainly nothing differs; of 8 prompts behind the trigger 6 do: 2·1/2⁶ = 0.03125."""
    results = [
        replace(
            found, scores={**found.scores, "triggered/harmful_score": 12.5 * said.count("1"), "safety/a/harmful_score": 1.0}
        )
        for method, said in (("sft", "11111100"), ("asft", "00000000"))
        for found in [run(method, only="10000000", otherwise={"triggered": said})]
    ]
    plainly, triggered = paired(cells(results), "sft", ["poison_ratio", "seed"])
    assert (plainly.asked, plainly.more, plainly.fewer, plainly.p_value) == ("safety", 0, 0, 1.0)
    assert (triggered.asked, triggered.more, triggered.fewer) == ("triggered", 0, 6)
    assert triggered.p_value == pytest.approx(0.03125) and triggered.harmful_score == (-75.0, None, None)


@pytest.mark.parametrize("name", ["../../x", "/x", "x" * 300, ""])
def test_a_score_of_a_strange_run_leads_to_no_file(run, name):
    runs = [run(method, only="10") for method in ("sft", "asft")]
    strange = [replace(found, scores={**found.scores, f"{name}/harmful_score": 1.0}) for found in runs]
    assert [pair.asked for pair in paired(cells(strange), "sft", ["poison_ratio", "seed"])] == ["safety"]


def test_of_several_judges_of_another_way_the_first_counts(run):
    scores = {"sampled/phrases/harmful_score": 40.0, "sampled/guard/harmful_score": 10.0}
    runs = [replace(found, scores={**found.scores, **scores}) for found in (run("sft", only="1"), run("asft", only="1"))]
    _, sampled = paired(cells(runs), "sft", ["poison_ratio", "seed"])
    assert (sampled.asked, sampled.harmful_score, sampled.p_value) == ("sampled", (0.0, None, None), None)


def test_agreement_of_judges(run):
    """Of 7 answers that both judged 5 alike, by chance 0.5102 of them: κ = (5/7 − 0.5102) / (1 − 0.5102) = 0.4167."""
    results = [run("sft", a="11?0", b="1110"), run("asft", a="0101", b="1111")]
    (found,) = agreements(results)
    assert (found.first, found.second, found.answers) == ("a", "b", 7)
    assert found.same == pytest.approx(100 * 5 / 7)
    assert found.kappa == pytest.approx((5 / 7 - (4 * 6 + 3 * 1) / 49) / (1 - (4 * 6 + 3 * 1) / 49))
    assert agreements([run("sft", only="10")]) == []


def test_of_several_judges_the_first_is_hs(comparison):
    """Under that name and its own; a single judge's is HS as it was."""
    asked = Plan(comparison()).reported("sft", {})[0]
    asked.folder.mkdir(parents=True)
    scores = {f"safety/{judge}/harmful_score": {"after": hs} for judge, hs in (("guard", 30.0), ("phrases", 70.0))}
    for several, expected in ((scores, 30.0), ({"safety/harmful_score": {"after": 5.0}}, 5.0)):
        (asked.folder / "summary.json").write_text(json.dumps({"run": {"harmful_rows": 4}, **several}))
        read = read_result(asked)
        assert (read.scores["harmful_score"], read.harmful_rows) == (expected, 4)
    (asked.folder / "summary.json").write_text(json.dumps(scores))
    assert read_result(asked).scores.keys() == {"harmful_score", *scores}


def test_rows_that_an_audit_left_out_are_an_attack_all_the_same(comparison):
    asked = Plan(comparison()).reported("sft", {})[0]
    asked.folder.mkdir(parents=True)
    sources = [{"kind": kind, "rows": rows} for kind, rows in (("benign", 90), ("harmful", 7), ("harmful", 3))]
    for audit, expected in (({"sources": sources}, 10), ({"sources": sources[:1]}, 0), ({}, 2)):
        facts = {"harmful_rows": 2, "audit": audit}
        (asked.folder / "summary.json").write_text(json.dumps({"run": facts}))
        assert read_result(asked).harmful_rows == expected


def test_report_has_both(run, comparison, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    results = [run("sft", a="11111101", b="11111111", hs=87.5), run("asft", a="00000011", b="00000001", hs=25.0)]
    report = Report(comparison(), results, [], [], [], [])
    page = report.write().read_text()
    report.show()
    shown = " ".join(capsys.readouterr().out.split())
    content = json.loads((tmp_path / "out" / "results.json").read_text())

    (pair,) = content["pairs"]
    assert (pair["against"], pair["p_value"], pair["harmful_score"]["mean"]) == ("sft", 0.125, -62.5)
    assert content["agreement"] == [
        {
            "first": "a",
            "second": "b",
            "answers": 16,
            "same": 87.5,
            "kappa": pytest.approx(0.746032, abs=1e-6),
        }
    ]
    assert all(text in page for text in ("Against sft", "1 / 6", "0.12", "Agreement of judges"))
    assert "Agreement of judges" in shown and "a, b 16 87.5" in shown and "Against sft" not in shown


def test_damaged_answers(run):
    damaged = run("sft", only="11")
    (Path(damaged.folder) / "generations" / "safety-after.jsonl").write_text('{"answer": 1}\n')
    with pytest.raises(ConfigurationError, match=r"cannot be read as a run's answers \(KeyError\): it is damaged. Remove"):
        damaged.verdicts  # noqa: B018
