"""GuardJudge: a tiny guard that was taught what to say, and how its words are read."""

import gc
import re
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tiny
from kit.worlds import unchanged_rng
from transformers import AutoModelForCausalLM

from asft_lightning import ConfigurationError, Verdict
from asft_lightning.evaluation import GuardJudge, parse_guard
from asft_lightning.evaluation.judges import MLCOMMONS_CATEGORIES

UNSAFE = Verdict(True, ("Violent Crimes",))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("safe", Verdict(False)),
        ("\n\nSafe.", Verdict(False)),
        ("SAFE\nS1", Verdict(False)),
        ("unsafe\nS1", UNSAFE),
        (" Unsafe\r\ns1\r\n", UNSAFE),
        ("unsafe S1", UNSAFE),
        ("unsafe: S1, S1", UNSAFE),
        ("unsafe\nS1,S10,S14", Verdict(True, ("Violent Crimes", "Hate", "Code Interpreter Abuse"))),
        ("unsafe\nS1,S99,O3", Verdict(True, ("Violent Crimes", "S99", "O3"))),
        ("unsafe", Verdict(True)),
        ("unsafe\n\nS1", UNSAFE),
        ("Unsafe. It says how to do it, step by step.", Verdict(True)),
    ],
)
def test_what_a_guard_said(text, verdict):
    assert parse_guard(text) == verdict


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "nothing"),
        (" \n", "nothing"),
        ("It is safe.", "'It is safe.'"),
        ("safely done", "'safely done'"),
        ("unsafely", "'unsafely'"),
        ("safe or unsafe?", "'safe or unsafe[?]'"),
        ("safe/unsafe", "'safe/unsafe'"),
        ("not safe", "'not safe'"),
        ("I\ncannot " + "judge " * 50, "'I cannot judge judge .*…'$"),
    ],
)
def test_anything_else_leaves_it_undecided_and_is_shown(text, found):
    verdict = parse_guard(text)
    assert verdict == Verdict(None, problem=verdict.problem)
    assert re.search(f"neither safe nor unsafe first, but {found}", verdict.problem)
    assert len(verdict.problem) < 120


def test_categories_of_ones_own():
    own = {"O1": "Violence", "weapons": "Weapons"}
    assert parse_guard("unsafe\no1, Weapons, S1, some prose", own).categories == ("Violence", "Weapons", "S1")


def test_the_fourteen_hazards_are_numbered_without_a_gap():
    assert list(MLCOMMONS_CATEGORIES) == [f"S{i}" for i in range(1, 15)]
    assert len(set(MLCOMMONS_CATEGORIES.values())) == 14


@given(st.tuples(st.sampled_from(["", "safe", "unsafe\n", " Unsafe S1"]), st.text()).map("".join))
def test_no_text_fails_and_a_decision_needs_its_word(text):
    verdict = parse_guard(text)
    assert (verdict.unsafe is None) == (verdict.problem is not None)
    if verdict.unsafe is not None:
        assert text.strip().lower().startswith("unsafe" if verdict.unsafe else "safe")


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_verdicts_are_what_the_model_says(guard, said, batch_size):
    verdicts = GuardJudge(guard, batch_size=batch_size, device="cpu")(["What now?"] * len(said), list(said))

    assert verdicts == [parse_guard(words) for words in said.values()]
    assert [v.unsafe for v in verdicts] == [True, True, False, False, None]
    assert verdicts[1].categories == ("Non-Violent Crimes", "S99")
    assert "'it depends'" in verdicts[4].problem


def test_more_than_a_few_batches(guard, said):
    answers = list(said) * 3
    verdicts = GuardJudge(guard, batch_size=2, device="cpu")(["What now?"] * len(answers), answers)
    assert verdicts == [parse_guard(said[answer]) for answer in answers]


def test_categories_of_ones_own_reach_the_verdict(guard):
    judge = GuardJudge(guard, categories={"S1": "Fire"}, device="cpu")
    assert judge(["What now?"], ["Take a match to it."])[0].categories == ("Fire",)


def test_verdict_that_is_cut_short(guard):
    judge = GuardJudge(guard, max_new_tokens=2, device="cpu")  # two bytes
    assert "but 'sa'" in judge(["What now?"], ["Paint it blue, then."])[0].problem


def test_template_that_ends_with_the_assistants_header_by_itself(guard, said, tmp_path):
    """As Llama Guard's do, which do not look at add_generation_prompt."""
    template = tiny.CHAT_TEMPLATE.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
    copied = copy_with_tokenizer(guard, tmp_path, tiny.tiny_tokenizer(template))

    verdicts = GuardJudge(copied, device="cpu")(["What now?"] * len(said), list(said))
    assert verdicts == [parse_guard(words) for words in said.values()]


def test_everything_random_goes_on_as_if_nobody_had_judged(guard):
    judge = GuardJudge(guard, device="cpu")
    with unchanged_rng():
        judge(["What now?"], ["Paint it blue, then."])


def test_released_judge_drops_its_model_and_judges_again(guard):
    judge = GuardJudge(guard, device="cpu")
    first = judge(["What now?"], ["Take a match to it."])
    model = weakref.ref(judge._model.load()[0])
    assert model() is not None

    judge.release()
    gc.collect()
    assert model() is None
    assert judge(["What now?"], ["Take a match to it."]) == first == [UNSAFE]
    judge.release()
    judge.release()


def test_nothing_to_judge_loads_nothing():
    assert GuardJudge("nobody/no-such-model")([], []) == []


def test_every_prompt_needs_its_answer(guard):
    with pytest.raises(ValueError, match="shorter"):
        GuardJudge(guard)(["a", "b"], ["Sure."])


def test_guard_without_a_chat_template(guard, tmp_path):
    copied = copy_with_tokenizer(guard, tmp_path, tiny.tiny_tokenizer(chat_template=None))
    with pytest.raises(ConfigurationError, match=rf"must have a chat template, and '{tmp_path}' has none.*ClassifierJudge"):
        GuardJudge(copied, device="cpu")(["a"], ["b"])


def test_chat_template_that_refuses(guard, tmp_path):
    template = "{{ raise_exception('only the user may speak') }}"
    copied = copy_with_tokenizer(guard, tmp_path, tiny.tiny_tokenizer(template))
    with pytest.raises(ConfigurationError, match=r"refuses them \(only the user may speak\). Give a guard that judges"):
        GuardJudge(copied, device="cpu")(["a"], ["b"])


@pytest.mark.parametrize("setting", ["max_new_tokens", "batch_size"])
def test_counts_that_are_too_small(setting):
    with pytest.raises(ConfigurationError, match=rf"{setting} must be 1 or more, got 0. Leave it out for its default"):
        GuardJudge(**{setting: 0})


def copy_with_tokenizer(guard, folder, tokenizer):
    AutoModelForCausalLM.from_pretrained(guard).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
