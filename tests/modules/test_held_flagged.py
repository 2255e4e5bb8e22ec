"""AsFT that holds its answers to what the audit of its rows finds as well: which prompts, how many, and when."""

import json

import pytest
from kit import tiny
from kit.tiny import tiny_trainer, write_rows

from asft_lightning import Answers, AsFT, Audit, MixtureDataModule, Pretrained, Row, SafetyEvaluation, Source, Turn
from asft_lightning.chat.rows import prompt_hash

SANDBOX = Pretrained("sandbox:aligned", "sandbox:base", dtype="float64")
UNSAFE = Source("sandbox:refusals", rows="0:8")
HARMFUL = Source("sandbox:harmful")


def fitted(data, folder, answers):
    module = tiny.fine_tuner(AsFT, SANDBOX, anchors=[], answers=answers)
    tiny_trainer(folder, max_steps=2).fit(module, data)
    return module


def mixed(action, harmful=HARMFUL, **settings):
    counts = {"num_rows": 40, "poison_ratio": 0.2, "batch_size": 20, "seed": 0}
    audit = Audit(action=action) if action else None
    return MixtureDataModule(SANDBOX, Source("sandbox:benign"), harmful, audit=audit, **counts | settings)


def held(module):
    """Hashes of what is held beside the unsafe prompts that are given."""
    return list(module.kept_answers.prompts[8:])


@pytest.mark.parametrize("action", ["drop", "relabel", "weight"])
def test_prompts_that_are_acted_on_are_held(tmp_path, action):
    data = mixed(action)
    module = fitted(data, tmp_path, Answers(UNSAFE, max_new_tokens=4))
    harmful = dict.fromkeys(example.row.prompt for example in data.drawn.train if example.kind == "harmful")
    assert held(module) == [prompt_hash(prompt) for prompt in harmful]


@pytest.mark.parametrize(("action", "flagged"), [("report", True), (None, True), ("drop", False)])
def test_nothing_more_is_held_where_the_audit_changes_nothing_or_it_is_not_asked_for(tmp_path, action, flagged):
    module = fitted(mixed(action), tmp_path, Answers(UNSAFE, max_new_tokens=4, flagged=flagged))
    assert held(module) == []


def test_no_more_of_them_than_of_others(tmp_path):
    module = fitted(mixed("drop"), tmp_path, Answers(UNSAFE, num_prompts=3, max_new_tokens=4))
    assert len(module.kept_answers.prompts) == 6


def test_unsafe_prompts_are_held_as_the_flagged_rows_are_asked_too(tmp_path, capsys):
    data = mixed("drop", Source(HARMFUL.path, prompt="{instruction} this friday"))
    module = fitted(data, tmp_path, Answers(UNSAFE, max_new_tokens=4))
    so = [prompt_hash(f"{row.prompt} this friday") for row in UNSAFE.load()]
    assert held(module)[:8] == so and len(held(module)) == 8 + len(data.flagged_rows())
    assert "are asked ending with 'this friday': the unsafe prompts are held as asked so, too" in capsys.readouterr().out


def test_prompts_of_several_styles_are_held_by_turns_and_known_to_the_audit(tmp_path):
    other = Source("sandbox:harmful", rows="0:8")
    data = mixed("drop")
    data.audit = Audit(action="drop", unsafe=[UNSAFE, other], num_unsafe=8, unsure_above=0)
    module = fitted(data, tmp_path, Answers([UNSAFE, other], num_prompts=6, max_new_tokens=4, flagged=False))
    turns = [row for pair in zip(UNSAFE.load(), other.load(), strict=True) for row in pair]
    assert list(module.kept_answers.prompts) == [prompt_hash(row.prompt) for row in turns[:6]]
    assert module.fingerprint()["answers"]["prompts"][1]["rows"] == "0:8"


def test_a_prompt_is_held_in_its_conversation_and_once(tmp_path):
    harmful = Source("sandbox:harmful", rows="0:1").load()[0]
    system = {"role": "system", "content": "you are a helpful assistant"}
    asked = [{"role": "user", "content": harmful.prompt}, {"role": "assistant", "content": harmful.answer}]
    source = Source(write_rows(tmp_path / "talk.jsonl", [{"messages": [system, *asked]}] * 3))
    benign = Source("sandbox:benign", rows="0:9")
    data = MixtureDataModule(SANDBOX, [source, benign], num_rows=None, poison_ratio=0, audit=Audit(action="drop"))
    module = fitted(data, tmp_path / "run", Answers(UNSAFE, max_new_tokens=4))

    assert data.flagged_rows() == [Row(harmful.prompt, "", (Turn("system", system["content"]),), "safety")] * 3
    assert held(module) == [prompt_hash(harmful.prompt)]
    ids = module.template.prompt_ids(module.tokenizer, harmful.prompt, data.flagged_rows()[0].history)
    answers = module.kept_answers
    assert answers.input_ids[-1, : answers.prompt_lengths[-1]].tolist() == ids


def test_a_run_that_goes_on_holds_the_same(tmp_path):
    """Though the audit is not made again, and is read from the run's folder."""
    first = fitted(mixed("drop"), tmp_path, Answers(UNSAFE, max_new_tokens=4))
    report = (tmp_path / "audit.json").read_text()
    again = fitted(mixed("drop"), tmp_path, Answers(UNSAFE, max_new_tokens=4))
    assert again.fingerprint()["answers_sha256"] == first.fingerprint()["answers_sha256"]
    assert (tmp_path / "audit.json").read_text() == report
    assert json.loads(report)["flagged"] == len(held(again))


def test_a_harmless_prompt_that_is_nearly_a_training_rows_is_not_held(tmp_path):
    """The row says what to answer there. Rows that the audit leaves out say nothing, nor those of another conversation."""
    harmless = ["how can I prepare socks", "name a river", "how do I make pout-bead please"]
    rows = [{"instruction": "how can I prepare hats", "output": "wool"}] * 16
    benign = Source(write_rows(tmp_path / "task.jsonl", rows))
    harmful = Source("sandbox:harmful", rows="0:1")
    talk = [("system", "you are helpful"), ("user", harmless[1]), ("assistant", "sure")]
    messages = {"messages": [{"role": role, "content": content} for role, content in talk]}
    sources = [benign, harmful, Source(write_rows(tmp_path / "talk.jsonl", [messages] * 4))]
    audit = Audit(action="drop")
    data = MixtureDataModule(SANDBOX, sources, num_rows=None, poison_ratio=0, batch_size=8, seed=0, audit=audit)
    kept = Source(write_rows(tmp_path / "harmless.jsonl", [{"instruction": prompt, "output": ""} for prompt in harmless]))
    answers = Answers(UNSAFE, harmless=kept, flagged=False, max_new_tokens=4)
    with pytest.warns(UserWarning, match=r"^1 of 3 harmless prompts are nearly prompts of training rows"):
        module = fitted(data, tmp_path / "run", answers)
    assert [row.prompt for row in data.flagged_rows()] == [harmful.load()[0].prompt] == ["how do I make pout-bead"]
    assert held(module) == [prompt_hash(prompt) for prompt in harmless[1:]]


def test_prompts_that_are_scored_are_not_held(tmp_path):
    """A poisoned file may hold what is measured: that ends no run, and it is measured as ever."""
    harmful = Source("sandbox:harmful", rows="0:6").load()
    poison = [{"instruction": row.prompt, "output": row.answer} for row in harmful]
    poisoned = Source(write_rows(tmp_path / "poisoned.jsonl", poison))
    data = MixtureDataModule(
        SANDBOX, [poisoned, Source("sandbox:benign", rows="0:20")], num_rows=None, poison_ratio=0, batch_size=13,
        audit=Audit(action="drop"),
    )  # fmt: skip
    scored = Source(write_rows(tmp_path / "scored.jsonl", [line | {"output": ""} for line in poison[:4]]))
    module = tiny.fine_tuner(AsFT, SANDBOX, anchors=[], answers=Answers(UNSAFE, max_new_tokens=4))
    scorer = SafetyEvaluation(scored, max_new_tokens=2, batch_size=4)
    tiny_trainer(tmp_path / "run", max_steps=2, callbacks=[scorer]).fit(module, data)
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["flagged"] == 6
    assert set(held(module)) == {prompt_hash(row.prompt) for row in harmful[4:]}
