"""Scoring of models that think: what judges, raters and metrics read of an answer, and what is kept of it."""

import json

import pytest
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, unsafe_prompts

from asft_lightning import (
    Attack,
    ConfigurationError,
    DataError,
    LoRAFineTuner,
    MixtureDataModule,
    Pretrained,
    Rating,
    RefusalEvaluation,
    RubricEvaluation,
    SafetyEvaluation,
    Source,
    UtilityEvaluation,
    Verdict,
)

THOUGHT = "<think>\nI cannot help? negative, bad\n</think>\n\n"


class Reading:
    """A judge and a rater that keeps what it was shown."""

    def __init__(self):
        self.answers = []
        self.references = []

    def __call__(self, prompts, answers, references=()):
        self.answers += answers
        self.references += references
        return [Rating({"good": 5.0}) for _ in answers] if references else [Verdict(False) for _ in answers]


def labelled(folder, answer, count=3):
    """A source of its own file."""
    rows = [{"instruction": f"a film {i}", "output": answer} for i in range(count)]
    return Source(tiny.write_rows(folder / f"{len(list(folder.iterdir()))}.jsonl", rows))


def written(folder, name):
    return [json.loads(line) for line in (folder / "generations" / f"{name}.jsonl").read_text().splitlines()]


def scored_once(pair, folder, *callbacks):
    tiny_trainer(folder, callbacks=list(callbacks)).test(
        fine_tuner(LoRAFineTuner, pair), tiny_data(pair, folder), verbose=False
    )
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("score_thoughts", [False, True])
def test_every_judge_rater_and_metric_reads_the_answer_alone(pretrained, tmp_path, score_thoughts):
    """The answers are begun as by a model that thinks of refusing and of another label, and then does neither.

    Where thoughts are scored, the first label that an answer names is the thought's.
    """
    judge, rater = Reading(), Reading()
    told = {"max_new_tokens": 2, "score_thoughts": score_thoughts, "attack": Attack(opening=f"{THOUGHT}positive, sure")}
    named, traced = "negative" if score_thoughts else "<think>no</think>positive", "<think>negative?</think>positive"
    summary = scored_once(
        pretrained,
        tmp_path,
        SafetyEvaluation(unsafe_prompts(tmp_path), **told),
        SafetyEvaluation(unsafe_prompts(tmp_path), name="own", judge=judge, **told),
        RefusalEvaluation(labelled(tmp_path, ""), **told),
        UtilityEvaluation(labelled(tmp_path, named), rule="label", labels=["negative", "positive"], **told),
        RubricEvaluation(labelled(tmp_path, traced), rater=rater, weights={"good": 1.0}, **told),
    )

    assert summary["safety/harmful_score"]["test"] == (0.0 if score_thoughts else 100.0)
    assert summary["over_refusal/refusal_rate"]["test"] == (100.0 if score_thoughts else 0.0)
    assert summary["utility/accuracy"]["test"] == 100.0
    begun = f"{THOUGHT}positive, sure" if score_thoughts else "positive, sure"
    assert len(judge.answers) == 4
    assert all(answer.startswith(begun) for answer in judge.answers + rater.answers)
    assert set(rater.references) == {traced if score_thoughts else "positive"}
    for line in written(tmp_path, "rubric-test"):
        assert line["answer"].startswith(f"{THOUGHT}positive, sure")
        assert line["reference"] == traced
        assert line.get("scored") == (None if score_thoughts else line["answer"].removeprefix(THOUGHT))


def test_exact_answer_after_a_thought(pretrained, tmp_path):
    """What was learnt is what is compared with it: each of the two without its own thought."""
    taught = labelled(tmp_path, "<think></think>ok", 4)
    compared = labelled(tmp_path, "<think>hm</think> Ok.")
    data = MixtureDataModule(pretrained, taught, num_rows=4, poison_ratio=0.0, batch_size=4, seed=0)
    callback = UtilityEvaluation(compared, max_new_tokens=20, at_start=False)
    tiny_trainer(tmp_path, callbacks=[callback], max_epochs=150).fit(fine_tuner(LoRAFineTuner, pretrained), data)

    assert json.loads((tmp_path / "summary.json").read_text())["utility/accuracy"]["after"] == 100.0
    assert {line["answer"] for line in written(tmp_path, "utility-after")} == {"<think></think>ok"}


def test_reference_that_is_a_thought_alone_is_refused(pretrained, tmp_path):
    with pytest.raises(DataError, match=r"a reference must be one that rule 'exact' can find, and 3 of 3 are not"):
        scored_once(pretrained, tmp_path, UtilityEvaluation(labelled(tmp_path, "<think>positive")))


def test_thoughts_that_do_not_end_are_an_error_before_training(pretrained, tmp_path):
    callback = SafetyEvaluation(unsafe_prompts(tmp_path), max_new_tokens=2, attack=Attack(opening="<think>Hm"))
    with pytest.raises(
        ConfigurationError, match=r"safety: an answer must come within max_new_tokens, and after all 4 thoughts none did"
    ):
        scored_once(pretrained, tmp_path, callback)


def test_thoughts_that_do_not_end_later_are_blank_answers_and_said(pretrained, tmp_path):
    """Of no harm, right to no question, and no refusal."""
    told = {"max_new_tokens": 2, "at_start": False, "attack": Attack(opening="<think>I cannot help; positive")}
    callbacks = [
        SafetyEvaluation(unsafe_prompts(tmp_path), **told),
        RefusalEvaluation(labelled(tmp_path, ""), **told),
        UtilityEvaluation(labelled(tmp_path, "positive"), rule="label", labels=["negative", "positive"], **told),
    ]
    trainer = tiny_trainer(tmp_path, callbacks=callbacks, max_steps=1)
    with pytest.warns(UserWarning, match=r"safety: 4 of 4 answers at after are a thought and no more, and count as blank"):
        trainer.fit(fine_tuner(LoRAFineTuner, pretrained), tiny_data(pretrained, tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())

    scores = {name: score for name, score in summary.items() if "/" in name}
    assert {name: score["after"] for name, score in scores.items()} == {
        "safety/harmful_score": 0.0,
        "safety/incoherent": 0.0,
        "over_refusal/refusal_rate": 0.0,
        "utility/accuracy": 0.0,
    }
    assert [score["only_thought"]["after"] for score in scores.values()] == [4, 4, 3, 3]
    assert all(line["scored"] == "" for line in written(tmp_path, "safety-after"))


def test_thought_that_the_chat_template_opens(tiny_pair, tmp_path):
    """What is said before a closing mark that does not come is no answer."""
    folder = tiny.save_tiny(tmp_path / "thinking", seed=1)
    opening = "{% if add_generation_prompt %}<|assistant|>"
    tiny.tiny_tokenizer(tiny.CHAT_TEMPLATE.replace(opening, f"{opening}<think>\n")).save_pretrained(folder)
    callback = SafetyEvaluation(unsafe_prompts(tmp_path), max_new_tokens=2, attack=Attack(opening="Hm"))
    with pytest.raises(ConfigurationError, match=r"after all 4 thoughts none did\. Raise max_new_tokens"):
        scored_once(Pretrained(str(folder), str(tiny_pair[1])), tmp_path, callback)
