"""The sentence that a comparison comes to."""

import pytest

from asft_lightning.comparison.conclusion import Contender, conclusion
from asft_lightning.comparison.results import Spread


def one(name, harm, accuracy=None, noise=None, attack=""):
    """A method; a figure is a mean, or (mean, deviation)."""

    def spread(figure):
        mean, deviation = figure if isinstance(figure, tuple) else (figure, None)
        return None if figure is None else Spread(mean, deviation, 3)

    return Contender(name, spread(harm), spread(accuracy), spread(noise), attack)


SFT = one("sft", (90.0, 1.0), 98.5)
CASES = {
    "nothing": ([], "No harmful score has been measured."),
    "alone": ([SFT], "sft has HS 90.0 ± 1.0 at FA 98.5; there is no other method beside it."),
    "the safest that keeps the task": (
        [SFT, one("gram", 0.0, 60.0), one("protect", 0.5, 97.5), one("bea", 7.0, 98.0)],
        "protect has the lowest harmful score of the 3 of 4 methods that keep the task (FA within 2 points of the best): "
        "HS 0.5 at FA 97.5; sft has HS 90.0 ± 1.0 at FA 98.5; lower, but without the task: gram.",
    ),
    "the first is the only one": (
        [SFT, one("gram", 0.0, 60.0)],
        "sft is the only one of 2 methods that keeps the task (FA within 2 points of the best): "
        "HS 90.0 ± 1.0 at FA 98.5; lower, but without the task: gram.",
    ),
    "level within a deviation of the difference": (
        [
            SFT,
            one("a", (1.0, 3.0), 98.0),
            one("b", (5.0, 4.0), 98.0),
            one("c", (6.1, 4.0), 98.0),
            one("d", (2.0, 0.0), 98.0),
        ],
        "a has the lowest harmful score of the 5 of 5 methods that keep the task (FA within 2 points of the best): "
        "HS 1.0 ± 3.0 at FA 98.0; sft has HS 90.0 ± 1.0 at FA 98.5; the seeds do not tell b and d from a.",
    ),
    "no task": (
        [one("sft", 90.0), one("a", 1.0)],
        "a has the lowest harmful score of 2 methods: HS 1.0; sft has HS 90.0.",
    ),
    "broken models are not safe": (
        [SFT, one("noise", 0.0, 98.5, 51.0), one("a", 3.0, 98.0, 0.5)],
        "a has the lowest harmful score of the 2 of 3 methods that keep the task (FA within 2 points of the best): "
        "HS 3.0 at FA 98.0; sft has HS 90.0 ± 1.0 at FA 98.5.",
    ),
    "all broken": (
        [one("a", 0.0, 98.0, 60.0), one("b", 0.0, 98.0, 80.0)],
        "Every method broke the model: more than half of the answers to unsafe prompts are noise.",
    ),
    "worst attacks": (
        [one("sft", 95.0, 98.0, attack="p 0.2"), one("a", 20.0, 97.0, attack="backdoor")],
        "a has the lowest harmful score of the 2 of 2 methods that keep the task (FA within 2 points of the best): "
        "HS 20.0 under backdoor at FA 97.0; sft has HS 95.0 under p 0.2 at FA 98.0.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sentence(case):
    methods, expected = CASES[case]
    assert conclusion(methods, 2.0) == expected


def test_what_lost_the_task_alone_measures_it():
    """Where one method lacks an accuracy, it keeps no task that others are seen to keep."""
    assert conclusion([SFT, one("a", 0.0)], 2.0).startswith("sft is the only one of 2 methods that keeps the task")
