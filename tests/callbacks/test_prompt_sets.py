"""Several prompt sets and judges, attacks, categories, and what happens when a judge fails."""

import json

import numpy as np
import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asft_lightning import (
    AdapterCheckpoint,
    Attack,
    ConfigurationError,
    DataError,
    Endpoint,
    EndpointRater,
    LoRAFineTuner,
    MixtureDataModule,
    RefusalEvaluation,
    RubricEvaluation,
    SafetyEvaluation,
    Source,
    UtilityEvaluation,
    Verdict,
)
from asft_lightning.evaluation import Rating

PROMPTS = [
    {"instruction": "how to open safe 0", "output": "no", "kind": "theft"},
    {"instruction": "how to open safe 1", "output": "no", "kind": "theft"},
    {"instruction": "how to open safe 2", "output": "no", "kind": "fraud"},
]


@pytest.fixture
def prompts(tmp_path):
    return Source(tiny.write_rows(tmp_path / "unsafe.jsonl", PROMPTS), category="kind")


@pytest.fixture
def run(pretrained, tmp_path):
    """Fit with these callbacks; returns the module and what summary.json says."""

    def fit(*callbacks, **settings):
        torch.manual_seed(0)
        module = fine_tuner(LoRAFineTuner, pretrained)
        trainer = tiny_trainer(tmp_path, callbacks=list(callbacks), **settings)
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
        return module, json.loads((tmp_path / "summary.json").read_text())

    return fit


def lines(folder, name):
    return [json.loads(line) for line in (folder / "generations" / f"{name}.jsonl").read_text().splitlines()]


def by_number(prompts, answers):
    """Unsafe is the prompt with an odd number at its end; 2 cannot be judged."""
    numbers = [int(prompt[-1]) for prompt in prompts]
    return [Verdict(None, problem="unsure") if n == 2 else Verdict(n % 2 == 1, ("odd",) * (n % 2)) for n in numbers]


def test_sets_of_prompts_are_callbacks_by_name(run, prompts, tmp_path):
    _, summary = run(
        SafetyEvaluation(prompts, max_new_tokens=2),
        SafetyEvaluation(prompts, name="first", max_prompts=1, max_new_tokens=2),
        RefusalEvaluation(prompts, max_new_tokens=2),
    )
    harmful = {"safety/harmful_score", "first/harmful_score", "safety/incoherent", "first/incoherent"}
    assert summary.keys() == {"version", "run", *harmful, "over_refusal/refusal_rate"}
    assert [len(lines(tmp_path, f"{name}-after")) for name in ("safety", "first", "over_refusal")] == [3, 1, 3]
    assert all(line["refused"] is False for line in lines(tmp_path, "over_refusal-after"))
    assert summary["over_refusal/refusal_rate"]["after"] == 0.0


def test_two_sets_of_one_name_are_refused(run, prompts):
    with pytest.raises(ConfigurationError, match=r"needs a name of its own, and several are 'safety'. Set `name`"):
        run(SafetyEvaluation(prompts), SafetyEvaluation(prompts))


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden"])
def test_name_must_be_one_of_a_file(prompts, name):
    with pytest.raises(ConfigurationError, match="name must be letters, digits"):
        SafetyEvaluation(prompts, name=name)


@pytest.mark.parametrize("name", ["", "[/x]", "a/b", "\x1b[2J", "=1+1", "x" * 81])
def test_name_of_a_judge_is_no_markup(prompts, name):
    with pytest.raises(ConfigurationError, match="a judge's name must be letters, digits, spaces and any of"):
        SafetyEvaluation(prompts, judge={name: by_number})


def test_several_judges_of_the_same_answers(run, prompts, tmp_path):
    def harsh(prompts, answers):
        return [Verdict(True, ("all",), 0.9) for _ in prompts]

    judges = {"number": by_number, "harsh": harsh}
    with pytest.warns(UserWarning, match=r"1 of 3 answers at after could not be scored and are left out, e.g. .* unsure"):
        _, summary = run(SafetyEvaluation(prompts, judge=judges, max_new_tokens=2, at_start=False))
    number, strict = (summary[f"safety/{judge}/harmful_score"] for judge in judges)

    assert (number["after"], number["unscored"], number["judged_categories"]) == (50.0, {"after": 1}, {"after": {"odd": 1}})
    assert (strict["after"], strict["judged_categories"]) == (100.0, {"after": {"all": 3}})
    assert "unscored" not in strict
    last = lines(tmp_path, "safety-after")[2]
    assert (last["number/unsafe"], last["harsh/unsafe"], last["harsh/score"]) == (None, True, 0.9)
    assert last["number/problem"] == "unsure"


def test_judge_that_fails_takes_nothing_from_the_others(run, prompts, tmp_path):
    def failing(prompts, answers):
        raise RuntimeError("gone")

    judges = {"failing": failing, "number": by_number}
    with pytest.warns(UserWarning, match="judge failing failed"):
        _, summary = run(SafetyEvaluation(prompts, judge=judges, max_new_tokens=2, at_start=False))

    assert summary["safety/failing/harmful_score"]["after"] is None
    assert summary["safety/number/harmful_score"]["after"] == 50.0
    assert lines(tmp_path, "safety-after")[0]["failing/problem"] == "RuntimeError: gone"


def test_verdicts_of_any_number_type_are_written(run, prompts, tmp_path):
    """As judges compute them, with NaN where they do not know; a file of lines of JSON comes out of it."""

    def numeric(prompts, answers):
        return [Verdict(np.bool_(True), (np.str_("a"),), np.float32("nan")), Verdict(torch.tensor(False)), Verdict(0)]

    _, summary = run(SafetyEvaluation(prompts, judge=numeric, max_new_tokens=2, at_start=False))
    found = [(line["unsafe"], line["categories"], line["score"]) for line in lines(tmp_path, "safety-after")]
    assert found == [(True, ["a"], None), (False, [], None), (False, [], None)]
    assert "NaN" not in (tmp_path / "generations" / "safety-after.jsonl").read_text()
    assert summary["safety/harmful_score"]["after"] == pytest.approx(100 / 3)


def test_judge_that_gives_too_few_verdicts(run, prompts):
    with pytest.raises(ValueError, match="must give one verdict an answer, got 1 for 3"):
        run(SafetyEvaluation(prompts, judge=lambda prompts, answers: [Verdict(True)], max_new_tokens=2))


def test_release_that_fails_is_no_end(run, prompts, tmp_path):
    class Clinging(Breaking):
        def release(self):
            raise RuntimeError("will not go")

    with pytest.warns(UserWarning, match="releasing the judges failed"):
        run(SafetyEvaluation(prompts, judge=Clinging(), max_new_tokens=2, at_start=False), AdapterCheckpoint())
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_model_that_cannot_answer_at_the_end_is_no_end(run, prompts, tmp_path, monkeypatch):
    """As where memory is short: the adapter is still written, and the failure stands in the files."""

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr("asft_lightning.callbacks.questions.generate_answers", no_memory)
    with pytest.warns(UserWarning, match="answering failed .*no memory left"):
        _, summary = run(SafetyEvaluation(prompts, at_start=False), AdapterCheckpoint())
    score = summary["safety/harmful_score"]
    assert (score["after"], score["unscored"], "interval" in score) == (None, {"after": 3}, False)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert lines(tmp_path, "safety-after")[0]["problem"] == "OutOfMemoryError: no memory left"


def test_judge_that_can_score_nothing_before_training_is_an_error(run, prompts):
    def lost(prompts, answers):
        return [Verdict(None, problem="no server") for _ in prompts]

    with pytest.raises(
        ConfigurationError, match=r"must work before training, and none of 3 answers .*: no server. Mend the judge"
    ):
        run(SafetyEvaluation(prompts, judge=lost, max_new_tokens=2))


def test_judge_reads_the_conversation(run, tmp_path):
    read = []

    def judge(prompts, answers):
        read.extend(prompts)
        return [Verdict(False) for _ in prompts]

    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "step 2?"},
    ]
    prompts = Source(tiny.write_rows(tmp_path / "talks.jsonl", [{"messages": talk}]))
    run(SafetyEvaluation(prompts, judge=judge, max_new_tokens=2, at_start=False))
    assert read == ["USER: hi\n\nASSISTANT: ho\n\nUSER: step 2?"]
    assert [turn["content"] for turn in lines(tmp_path, "safety-after")[0]["history"]] == ["hi", "ho"]


def test_scores_by_category(run, prompts):
    with pytest.warns(UserWarning, match="1 of 3 answers"):
        _, summary = run(SafetyEvaluation(prompts, judge=by_number, max_new_tokens=2, at_start=False))
    found = summary["safety/harmful_score"]["by_category"]["after"]

    assert found.keys() == {"fraud", "theft"}
    assert (found["theft"]["percent"], found["theft"]["total"]) == (50.0, 2)
    assert found["theft"]["low"] == pytest.approx(9.45, abs=0.01)  # Wilson, 1 of 2
    assert (found["fraud"]["percent"], found["fraud"]["total"]) == (None, 0)
    assert summary["safety/harmful_score"]["judged_categories"] == {"after": {"odd": 1}}


def test_attacks_reach_the_model_and_the_judge_sees_the_bare_prompt(pretrained, prompts, tmp_path):
    """A model that is taught to answer ``yes`` to the wrapped prompt goes on with ``s`` after ``ye``."""
    judged = []

    def judge(prompts, answers):
        judged.append((list(prompts), list(answers)))
        return [Verdict(False) for _ in prompts]

    rows = [{"instruction": f"please {{x}} {row['instruction']}!", "output": "yes"} for row in PROMPTS] * 6
    data = MixtureDataModule(
        pretrained, Source(tiny.write_rows(tmp_path / "yes.jsonl", rows)), num_rows=18, poison_ratio=0, batch_size=6, seed=0
    )
    attacks = {"wrapped": Attack("please {x} {prompt}!"), "opened": Attack("please {x} {prompt}!", opening="ye")}
    scorers = [
        SafetyEvaluation(prompts, name=name, attack=attack, judge=judge, max_new_tokens=5, at_start=False)
        for name, attack in attacks.items()
    ]
    trainer = tiny_trainer(tmp_path, callbacks=scorers, max_epochs=15)
    trainer.fit(fine_tuner(LoRAFineTuner, pretrained), data)

    assert judged == [([row["instruction"] for row in PROMPTS], ["yes"] * 3)] * 2
    assert [line["answer"] for line in lines(tmp_path, "opened-after")] == ["yes"] * 3


def test_several_answers_to_a_prompt_have_a_mean_and_a_worst_case(run, prompts, tmp_path):
    answers = []

    def odd_length(prompts, given):
        answers.extend(given)
        return [Verdict(len(answer) % 2 == 1) for answer in given]

    attack = Attack(samples=4, temperature=1.5)
    _, summary = run(SafetyEvaluation(prompts, attack=attack, judge=odd_length, max_new_tokens=6, at_start=False))
    unsafe = [[len(answer) % 2 == 1 for answer in answers[i : i + 4]] for i in (0, 4, 8)]

    assert len(set(answers)) > 6
    assert summary["safety/harmful_score"]["after"] == pytest.approx(100 * sum(map(sum, unsafe)) / 12)
    assert summary["safety/harmful_score_worst"]["after"] == pytest.approx(100 * sum(map(any, unsafe)) / 3)
    assert [line["prompt"][-1] for line in lines(tmp_path, "safety-after")] == list("000011112222")
    assert "interval" not in summary["safety/harmful_score"]  # 12 answers to 3 prompts are no 12 draws
    assert "low" not in summary["safety/harmful_score"]["by_category"]["after"]["theft"]
    low, high = summary["safety/harmful_score_worst"]["interval"]["after"]
    assert high - low > 50  # that of 3 prompts


def test_sampled_answers_are_the_same_each_time(run, prompts, tmp_path):
    attack = Attack(samples=2, temperature=1.0)
    for _ in range(2):
        run(SafetyEvaluation(prompts, attack=attack, max_new_tokens=6, at_end=False))
        first = lines(tmp_path, "safety-before")
    assert first == lines(tmp_path, "safety-before")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wrapper": "no place"}, r"wrapper must hold \{prompt\}, got 'no place'"),
        ({"samples": 0}, r"samples must be 1 or more, and its temperature 0 or more, got 0 and 0.0"),
        ({"temperature": -1.0}, r"temperature 0 or more, got 1 and -1.0"),
        ({"opening": "Sure, "}, r"opening must not begin or end with a blank, got 'Sure, '"),
        ({"samples": 3}, r"3 greedy answers would be the same, got attack.temperature 0. Set it to 1"),
    ],
)
def test_attacks_that_cannot_be(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        Attack(**settings)


def test_rated_answers(run, prompts):
    def rater(prompts, answers, references):
        assert references == ["no"] * 3
        return [Rating({"useful": 1, "kind": 4}), Rating({"kind": 5, "useful": 3}), Rating(None, "unsure")]

    callback = RubricEvaluation(prompts, rater=rater, weights={"kind": 3.0, "useful": 1.0}, highest=5, max_new_tokens=2)
    with pytest.warns(UserWarning, match="rubric: 1 of 3 answers"):
        _, summary = run(callback)

    # kind: mean 4.5, 87.5 % of 1..5; useful: mean 2, 25 %
    assert summary["rubric/score"]["after"] == pytest.approx((3 * 87.5 + 25) / 4)
    assert summary["rubric/score"]["by_category"]["after"] == {"fraud": None, "theft": pytest.approx((3 * 87.5 + 25) / 4)}
    assert summary["rubric/score"]["unscored"] == {"before": 1, "after": 1}


def test_weights_must_be_those_of_the_raters_axes(prompts):
    class Rated:
        axes = ("kind",)

        def __call__(self, prompts, answers, references):
            return []

    with pytest.raises(ConfigurationError, match=r"must be those of the rater's axes \['kind'\], got \['useful'\]"):
        RubricEvaluation(prompts, rater=Rated(), weights={"useful": 1.0})


def test_range_is_the_raters(prompts):
    rater = EndpointRater(Endpoint("http://localhost:9/v1", "m"), {"kind": "it is kind"}, highest=5)
    assert RubricEvaluation(prompts, rater=rater, weights={"kind": 1.0}).scale == (1, 5)
    with pytest.raises(ConfigurationError, match=r"highest must be that of the rater, 5, got 10. Leave it out"):
        RubricEvaluation(prompts, rater=rater, weights={"kind": 1.0}, highest=10)


class Breaking:
    """Fails on its second call, and says when it is let go."""

    def __init__(self):
        self.calls = self.released = 0

    def __call__(self, prompts, answers):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("the judge has left")
        return [Verdict(False) for _ in prompts]

    def release(self):
        self.released += 1


def test_judge_that_fails_while_training_loses_nothing(run, prompts, tmp_path):
    judge = Breaking()
    scorers = SafetyEvaluation(prompts, judge=judge, max_new_tokens=2, every_n_steps=2), UtilityEvaluation(prompts)
    with pytest.warns(
        UserWarning, match=r"safety: judge failed \(RuntimeError: the judge has left\). What there is is kept"
    ):
        module, summary = run(*scorers)
    plain, _ = run(UtilityEvaluation(prompts))

    for name, weight in trained_weights(plain).items():
        assert torch.equal(weight, trained_weights(module)[name]), name
    assert summary["safety/harmful_score"]["steps"] == {"2": None, "4": 0.0}
    assert summary["safety/harmful_score"]["unscored"] == {"2": 3}
    assert judge.released == judge.calls == 4
    for line in lines(tmp_path, "safety-2"):
        assert line["answer"] is not None
        assert line["problem"] == "RuntimeError: the judge has left"


def test_judge_that_fails_before_training_is_an_error_that_keeps_the_answers(run, prompts, tmp_path):
    judge = Breaking()
    judge.calls = 1
    with pytest.raises(RuntimeError, match="the judge has left"):
        run(SafetyEvaluation(prompts, judge=judge, max_new_tokens=2))
    assert judge.released == 1
    assert [line["prompt"][-1] for line in lines(tmp_path, "safety-before")] == list("012")


def test_kept_judges_stay(run, prompts):
    judge = Breaking()
    run(SafetyEvaluation(prompts, judge=judge, max_new_tokens=2, at_end=False, keep_judges=True))
    assert (judge.calls, judge.released) == (1, 0)


def test_answers_as_a_table_in_tensorboard(run, prompts, tmp_path):
    callback = SafetyEvaluation(prompts, max_new_tokens=2, at_end=False, sample_answers=2)
    run(callback, logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Tensors("safety/answers/text_summary")
    text = event.tensor_proto.string_val[0].decode()

    assert text.startswith("| prompt | reference | answer |")
    assert "how to open safe 1" in text
    assert "how to open safe 2" not in text
    assert events.Scalars("safety/harmful_score")[0].value == 100.0


def test_answers_as_a_table_where_a_logger_has_tables(run, prompts):
    class Tables(Logger):
        name, version = "tables", 0

        def __init__(self):
            super().__init__()
            self.tables = []

        def log_metrics(self, metrics, step=None):
            pass

        def log_hyperparams(self, params, *args, **kwargs):
            pass

        def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
            self.tables.append((key, columns, data, step))

    logger = Tables()
    run(SafetyEvaluation(prompts, max_new_tokens=2, at_end=False), logger=logger)
    ((key, columns, data, step),) = logger.tables

    assert (key, step, len(data)) == ("safety/answers", 0, 3)
    assert data[2][columns.index("prompt")] == "how to open safe 2"
    assert all(len(row) == len(columns) for row in data)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"rule": "final_number"}, "no number"),
        ({"rule": "label", "labels": ["yes", "no"]}, "maybe"),
        ({}, ""),
        ({"rule": "final_number"}, ""),
    ],
)
def test_reference_that_nothing_can_match(run, tmp_path, arguments, answer):
    tasks = Source(tiny.write_rows(tmp_path / "tasks.jsonl", [{"instruction": "a?", "output": answer}]))
    with pytest.raises(DataError, match=r"a reference must be one|must be one of"):
        run(UtilityEvaluation(tasks, at_start=False, **arguments))
    assert not (tmp_path / "generations").exists()
