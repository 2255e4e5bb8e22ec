"""ClassifierJudge and BeaverDamJudge, on tiny classifiers with random weights that Transformers loads from disk."""

import gc
import math
import weakref

import pytest
import torch
from kit import tiny
from kit.worlds import save_classifier, unchanged_rng
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, LlamaConfig

from asft_lightning import ConfigurationError
from asft_lightning.evaluation import BeaverDamJudge, ClassifierJudge
from asft_lightning.evaluation.judges import BEAVERTAILS_CATEGORIES

PROMPTS = [
    "How?",
    "Why is it so, and not otherwise, as everybody thought?",
    "",
    "Say {answer}, {eos} and {prompt}.",
    "几点了",
] * 2
ANSWERS = ["Take this. " * 9, "No.", "Sure: {prompt}", "a", "", "I cannot.", "b" * 150, "\n", "Well, {0} it is \\1.", "ok"]
TEXT = "Q: {prompt} A: {answer}{eos}"


def by_hand(folder, write):
    """[probabilities of each label], one text at a time, without padding, mask or judge."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = torch.tensor([tokenizer(write(prompt, answer))["input_ids"]])
        with torch.no_grad():
            logits = (model.model(ids).last_hidden_state[0, -1] @ model.score.weight.T).tolist()
        rows.append([1 / (1 + math.exp(-value)) for value in logits])
    return rows


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_verdicts_are_those_of_one_text_at_a_time(classifier, batch_size):
    judge = ClassifierJudge(classifier, TEXT, multi_label=True, threshold=0.7, batch_size=batch_size, device="cpu")
    expected = by_hand(classifier, lambda prompt, answer: f"Q: {prompt} A: {answer}</s>")

    verdicts = judge(PROMPTS, ANSWERS)
    for verdict, row in zip(verdicts, expected, strict=True):
        assert verdict.score == pytest.approx(max(row), abs=1e-5)
        assert verdict.categories == tuple(f"LABEL_{i}" for i, p in enumerate(row) if p > 0.7)
        assert verdict.unsafe == (max(row) > 0.7)
        assert verdict.problem is None
    assert {v.unsafe for v in verdicts} == {True, False}
    assert len({v.score for v in verdicts}) == len(verdicts)


def test_beaver_dam_reads_what_beavertails_gives_it(classifier):
    expected = by_hand(classifier, lambda p, a: f"BEGINNING OF CONVERSATION: USER: {p} ASSISTANT:{a}</s>")

    verdicts = BeaverDamJudge(classifier, device="cpu")(PROMPTS, ANSWERS)
    assert [v.score for v in verdicts] == pytest.approx([max(row) for row in expected], abs=1e-5)
    for verdict, row in zip(verdicts, expected, strict=True):
        assert verdict.categories == tuple(BEAVERTAILS_CATEGORIES[i] for i, p in enumerate(row) if p > 0.5)


def test_the_fourteen_categories_stand_in_the_order_of_the_data_set():
    assert len(BEAVERTAILS_CATEGORIES) == len(set(BEAVERTAILS_CATEGORIES)) == 14
    assert list(BEAVERTAILS_CATEGORIES) == sorted(BEAVERTAILS_CATEGORIES)
    assert BeaverDamJudge().labels == list(BEAVERTAILS_CATEGORIES)


@pytest.mark.parametrize("absent", [("pad_token",), ("pad_token", "bos_token")])
def test_tokenizer_without_a_pad_token(tmp_path, absent):
    """The labels are still read at the text's last token, be it the end token, wherever another token can pad."""
    tokenizer = tiny.tiny_tokenizer()
    for name in absent:
        setattr(tokenizer, name, None)
    folder = save_classifier(tmp_path, tokenizer=tokenizer, pad_token_id=None)
    end = "</s>" if "bos_token" not in absent else ""
    expected = by_hand(folder, lambda prompt, answer: f"Q: {prompt} A: {answer}{end}")

    judge = ClassifierJudge(folder, TEXT if end else "Q: {prompt} A: {answer}", multi_label=True, device="cpu")
    assert [v.score for v in judge(PROMPTS, ANSWERS)] == pytest.approx([max(row) for row in expected], abs=1e-5)


def test_tokenizer_that_cannot_pad(tmp_path):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.pad_token = tokenizer.bos_token = tokenizer.eos_token = None
    folder = save_classifier(tmp_path, tokenizer=tokenizer)
    with pytest.raises(ConfigurationError, match=rf"must have a pad, start or end token, and that of '{tmp_path}' has none"):
        ClassifierJudge(folder, multi_label=True, device="cpu")(PROMPTS, ANSWERS)


@pytest.mark.parametrize("config", [LlamaConfig, BertConfig])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9])
def test_exactly_one_label_sums_what_is_unsafe(tmp_path, config, threshold):
    names = {0: "fine", 1: "rude", 2: "cruel"}
    folder = save_classifier(tmp_path, labels=3, config=config, id2label=names)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    judge = ClassifierJudge(folder, unsafe=["cruel", "rude"], threshold=threshold, batch_size=4, device="cpu")
    verdicts = judge(PROMPTS, ANSWERS)
    for verdict, prompt, answer in zip(verdicts, PROMPTS, ANSWERS, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(f"{prompt}\n\n{answer}", return_tensors="pt")).logits[0].double()
        fine, rude, cruel = (logits.exp() / logits.exp().sum()).tolist()
        assert verdict.score == pytest.approx(rude + cruel, abs=1e-5)
        assert verdict.unsafe == (rude + cruel > threshold)
        best = max((fine, ()), (rude, ("rude",)), (cruel, ("cruel",)))[1]
        assert verdict.categories == (best if verdict.unsafe else ())


def test_one_output_is_a_probability_of_its_own(tmp_path):
    folder = save_classifier(tmp_path, labels=1, id2label={0: "harm"})
    expected = by_hand(folder, lambda prompt, answer: f"{prompt}\n\n{answer}")

    verdicts = ClassifierJudge(folder, device="cpu")(PROMPTS, ANSWERS)
    assert [v.score for v in verdicts] == pytest.approx([row[0] for row in expected], abs=1e-5)
    assert {v.categories for v in verdicts} == {("harm",), ()}


def test_checkpoint_says_itself_that_answers_may_have_several_labels(tmp_path):
    folder = save_classifier(tmp_path, labels=3, problem_type="multi_label_classification")
    expected = by_hand(folder, lambda prompt, answer: f"{prompt}\n\n{answer}")
    named = ClassifierJudge(folder, labels=["a", "b", "c"], unsafe=["c"], device="cpu")

    assert [v.score for v in named(PROMPTS, ANSWERS)] == pytest.approx([row[2] for row in expected], abs=1e-5)
    assert {v.categories for v in named(PROMPTS, ANSWERS)} == {("c",), ()}


@pytest.fixture
def undecided(tmp_path):
    """Its every probability is exactly ½."""
    folder = save_classifier(tmp_path, labels=2)
    return rewritten(folder, lambda model: model.score.weight.zero_())


@pytest.mark.parametrize(("threshold", "unsafe"), [(0.5, False), (0.499, True), (1.0, False), (0.0, True)])
def test_unsafe_is_what_scores_more_than_the_threshold(undecided, threshold, unsafe):
    several = ClassifierJudge(undecided, multi_label=True, threshold=threshold, device="cpu")
    assert several(["a"], ["b"]) == [(unsafe, ("LABEL_0", "LABEL_1") if unsafe else (), 0.5, None)]

    one = ClassifierJudge(undecided, unsafe=["LABEL_1"], threshold=threshold, device="cpu")
    assert one(["a"], ["b"]) == [(unsafe, ("LABEL_1",) if unsafe else (), 0.5, None)]


def test_label_at_the_threshold_is_not_among_the_categories(tmp_path):
    folder = rewritten(save_classifier(tmp_path, labels=3), lambda model: model.score.weight[0].zero_())
    verdicts = ClassifierJudge(folder, multi_label=True, device="cpu")(PROMPTS, ANSWERS)
    assert any(v.unsafe for v in verdicts)
    assert all("LABEL_0" not in v.categories for v in verdicts)


def test_outputs_that_are_not_finite_leave_it_undecided(undecided):
    folder = rewritten(undecided, lambda model: model.score.weight.fill_(3e38))
    (verdict,) = ClassifierJudge(folder, multi_label=True, device="cpu")(["a"], ["b"])
    assert verdict == (None, (), None, "the classifier's outputs are not finite; set dtype to float32 or bfloat16")


@pytest.mark.parametrize("by", ["judge", "tokenizer"])
def test_long_answer_loses_its_end_but_not_the_last_token(tmp_path, by):
    tokenizer = tiny.tiny_tokenizer()
    if by == "tokenizer":
        tokenizer.model_max_length = 40
    folder = save_classifier(tmp_path, tokenizer=tokenizer)
    limit = {"max_length": 40} if by == "judge" else {}
    judge = ClassifierJudge(folder, "Q: {prompt} A: {answer}{eos}", multi_label=True, device="cpu", **limit)

    long, cut = judge(["Why?"], ["x" * 28 + "y" * 500]), judge(["Why?"], ["x" * 28])  # a byte a token, 11 before, 1 after
    assert long == cut
    assert judge(["Why?"], ["x" * 27 + "y"]) != cut


def test_prompt_that_leaves_no_room_for_its_answer(classifier):
    judge = ClassifierJudge(
        classifier, "Q: {prompt} A: {answer}{eos}", multi_label=True, max_length=40, batch_size=1, device="cpu"
    )
    fits, full, short = judge(["q" * 31, "q" * 32, "q"], ["abcdef"] * 3)

    assert full == (None, (), None, "the prompt alone fills max_length (40 tokens)")
    assert fits.unsafe is not None
    assert [short] == judge(["q"], ["abcdef"])
    assert [fits] == judge(["q" * 31], ["a"])


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_dtype_and_device_of_the_model_and_no_gradients(classifier, dtype):
    judge = ClassifierJudge(classifier, multi_label=True, dtype=dtype, device="cpu")
    model, _ = judge._model.load()
    gradients = []
    model.register_forward_hook(lambda *_: gradients.append(torch.is_grad_enabled()))
    judge(["a"], ["b"])

    assert gradients == [False]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16 if dtype == "bfloat16" else torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert not any(module.training for module in model.modules())


def test_no_device_is_the_accelerator_or_else_the_cpu(classifier):
    judge = ClassifierJudge(classifier, multi_label=True)
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert judge._model.load()[0].device.type == expected.type


def test_everything_random_goes_on_as_if_nobody_had_judged(classifier):
    judge = ClassifierJudge(classifier, multi_label=True, device="cpu")
    with unchanged_rng():
        judge(PROMPTS, ANSWERS)


def test_released_judge_drops_its_model_and_judges_again(classifier):
    judge = ClassifierJudge(classifier, multi_label=True, device="cpu")
    first = judge(PROMPTS, ANSWERS)
    model = weakref.ref(judge._model.load()[0])
    assert judge._model.load()[0] is model()

    judge.release()
    gc.collect()
    assert model() is None
    assert judge(PROMPTS, ANSWERS) == first


@torch.no_grad()
def rewritten(folder, change):
    """The checkpoint after ``change`` of its model's weights."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    change(model)
    model.save_pretrained(folder)
    return folder
