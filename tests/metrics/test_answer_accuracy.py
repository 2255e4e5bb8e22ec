"""Fine-tuning accuracy: each rule's cases worked by hand."""

import pytest

from asft_lightning import AnswerAccuracy, ConfigurationError
from asft_lightning.metrics import final_number, named_label

NEWS = ["World", "Sports", "Business", "Sci/Tech"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Sports", "Sports"),
        ("  sports.", "Sports"),
        ("The category is BUSINESS, not sports.", "Business"),
        ("Sci/Tech", "Sci/Tech"),
        ("**Sci/Tech**", "Sci/Tech"),
        ("Worldwide", None),
        ("Sportsworld", None),
        ("Tech", None),
        ("", None),
    ],
)
def test_named_label(answer, label):
    assert named_label(answer, NEWS) == label


def test_longer_of_two_labels_at_one_place():
    assert named_label("very good indeed", ["very", "very good"]) == "very good"
    assert named_label("not positive", ["positive", "not positive"]) == "not positive"


def test_label_is_text_not_a_pattern():
    assert named_label("C and more", ["C++", "C"]) == "C"
    assert named_label("C++ and more", ["C", "C++"]) == "C++"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("The final answer is: 42", "42"),
        ("3 apples and 4 pears make 7.", "7"),
        ("#### 1,250", "1250"),
        ("$1,234,567.00", "1234567"),
        ("12.0", "12"),
        ("-3", "-3"),
        ("0.25", "0.25"),
        ("so 10, 20, and 30, in all", "30"),
        ("none", None),
        ("", None),
    ],
)
def test_final_number(answer, number):
    assert final_number(answer) == number


@pytest.mark.parametrize(
    ("rule", "labels", "answer", "reference", "right"),
    [
        ("exact", None, "Positive.", "positive", True),
        ("exact", None, " a  b\n", "A b", True),
        ("exact", None, "positively", "positive", False),
        ("exact", None, "It is positive.", "positive", False),
        ("label", NEWS, "It is about sports.", "Sports", True),
        ("label", NEWS, "business and sports", "Sports", False),
        ("label", NEWS, "unsure", "Sports", False),
        ("final_number", None, "5 + 7 = 12.", "The final answer is: 12", True),
        ("final_number", None, "1,000", "1000.0", True),
        ("final_number", None, "12 of 13", "12", False),
        ("final_number", None, "unsure", "12", False),
        ("final_number", None, "unsure", "unsure", False),
    ],
)
def test_rules(rule, labels, answer, reference, right):
    metric = AnswerAccuracy(rule, labels)
    assert metric.is_correct(answer, reference) == right
    metric.update([answer], [reference])
    assert float(metric.compute()) == 100.0 * right


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1], [4, 0, 1]])
def test_batches_add_up(sizes):
    metric, answers, references = AnswerAccuracy(), list("abcde"), list("abxyz")
    start = 0
    for size in sizes:
        metric.update(answers[start : start + size], references[start : start + size])
        start += size

    assert float(metric.compute()) == pytest.approx(40.0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_to_score_is_no_number():
    assert bool(AnswerAccuracy().compute().isnan())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fuzzy",), r"rule must be one of exact, label, final_number, got 'fuzzy'"),
        (("label",), r"labels go with rule 'label', got rule 'label' and labels None"),
        (("exact", ["a"]), r"labels go with rule 'label', got rule 'exact' and labels \['a'\]"),
        (("label", []), r"labels go with rule 'label', got rule 'label' and labels \[\]"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        AnswerAccuracy(*arguments)


def test_every_answer_needs_its_reference():
    with pytest.raises(ValueError, match="shorter"):
        AnswerAccuracy().update(["a", "b"], ["a"])
