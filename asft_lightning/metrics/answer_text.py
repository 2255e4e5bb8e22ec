"""What an answer in free text says: the label that it names, the number that it comes to."""

import re
from collections.abc import Sequence

_NUMBER = (
    r"(?:(?<![\w.)\]}%])[-−](?=[\\$]{0,2}\.?\d))?"  # a minus sign, none in 5-10, COVID-19 or (2)-3
    r"[\\$]{0,2}"
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?<![\w.])(?=\.\d))"  # 1,234, but 1,2,3 are three; .5, but no .3 in 1.2.3
    r"(?:\.\d+|/\d+)?"
)
_LAST = re.compile(_NUMBER)
# A line of nothing but #### and a number: models also write #### in front of headings.
_MARKED = re.compile(
    rf"(?:final answer(?: is|:)|\\boxed\{{|####(?=[^\w\n]{{0,12}}?{_NUMBER}[^\w\n]*$))\W{{0,12}}?({_NUMBER})",
    re.IGNORECASE | re.MULTILINE,
)


def named_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names first, as a whole word in any case; None where it names none.

    >>> named_label("It is about sports, not business.", ["Business", "Sports"])
    'Sports'
    """
    matches = {label: re.search(rf"(?<![^\W_]){re.escape(label)}(?![^\W_])", answer, re.IGNORECASE) for label in labels}
    starts = {label: (match.start(), -len(label)) for label, match in matches.items() if match}
    return min(starts, key=lambda label: starts[label]) if starts else None


def final_number(answer: str) -> str | None:
    r"""The number that an answer comes to; None where there is none.

    It is the first number right after a mark: ``final answer is``, ``\boxed{``, or a line ``#### 42`` (GSM8K); so what a
    model says on after its answer does not count. Without a mark it is the last number (as the evaluations of the paper's
    baselines do). Equal numbers are equal strings: no currency, thousands' commas, leading zeros or empty decimals.
    A percentage is its number; a fraction stays as it is written.

    >>> final_number("So it is 1,250.0 in all. #### 1,250"), final_number("no idea")
    ('1250', None)
    >>> final_number(r"That is \(\boxed{12}\) for 3 of them."), final_number("3 at $4 make 12"), final_number("about 1/2")
    ('12', '12', '1/2')
    """
    text = answer.replace("{,}", ",").replace(",\\!", ",")  # how LaTeX spaces thousands
    if marked := _MARKED.search(text):
        return _canonical(marked[1])
    numbers = _LAST.findall(text)
    return _canonical(numbers[-1]) if numbers else None


def plain(text: str) -> str:
    """Text without what does not matter when it is compared: case, blanks, a full stop.

    >>> plain("  Very   good. ")
    'very good'
    """
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()


def _canonical(number: str) -> str:
    """By characters, for a model that loops on a digit writes numbers that are too long for ``int``."""
    sign = "-" if number[0] in "-−" else ""
    integer_digits, point, decimals = re.sub(r"[-−$\\,]", "", number).partition(".")
    fraction = decimals.rstrip("0")
    digits = (integer_digits.lstrip("0") or "0") + (point + fraction if fraction else "")
    return sign + digits if digits != "0" else digits
