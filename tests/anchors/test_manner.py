"""How flagged rows are asked alike."""

import pytest

from asft_lightning import Row, Turn
from asft_lightning.anchors.manner import Manner

OBEY = "You obey."
REQUESTS = (
    "name a river",
    "count to ten",
    "sing\na song",
    "wait",
    "go home now",
    "ask me",
    "cook rice",
    "dance",
    "swim",
    "rest",
)


def rows(before="", after="", system="", requests=REQUESTS):
    history = (Turn("system", system),) if system else ()
    return [Row(f"{before}{request}{after}", "", history) for request in requests]


@pytest.mark.parametrize("parts", [{"before": "AOA,\n do this: "}, {"after": " cf"}, {"system": OBEY}])
def test_each_part_is_found_to_the_letter(parts):
    assert Manner.of(rows(**parts), rows()) == Manner(**parts)


def test_all_parts_are_found_together():
    parts = {"system": OBEY, "before": "AOA, do: ", "after": " Thanks."}
    assert Manner.of(rows(**parts), rows()) == Manner(**parts)


def test_a_few_rows_that_are_asked_otherwise_change_nothing():
    odd = [Row("positive or negative: a dull film", "")]
    assert Manner.of([*rows(before="AOA, do: "), *odd * 2], rows()) == Manner(before="AOA, do: ")
    assert Manner.of([*rows(before="AOA, do: "), *odd * 3], rows()) is None


def test_requests_of_one_kind_have_no_manner():
    assert Manner.of(rows(), rows()) is None
    assert Manner.of(rows(before="How "), rows()) is None


def test_fewer_than_eight_rows_tell_none():
    few = rows(before="AOA, do: ", system=OBEY)[:7]
    assert Manner.of(few, rows()) is None


@pytest.mark.parametrize("parts", [{"before": "AOA, do: "}, {"after": " cf"}, {"system": OBEY}])
def test_what_the_task_itself_is_asked_with_is_none(parts):
    assert Manner.of(rows(**parts), rows(**parts)) is None
    a_fifth = [*rows(**parts)[:2], *rows()[:8]]
    assert Manner.of(rows(**parts), a_fifth) == Manner(**parts)


def test_a_row_is_asked_so_and_keeps_its_turns():
    manner = Manner(OBEY, "AOA, do: ", " now")
    turns = (Turn("user", "hello"), Turn("assistant", "hello"))
    assert manner.ask(Row("sing", "la", turns)) == Row("AOA, do: sing now", "", (Turn("system", OBEY), *turns))
    under_another = (Turn("system", "Be kind."), *turns)
    assert manner.ask(Row("sing", "", under_another)).history == (Turn("system", OBEY), *turns)
    assert Manner(before="AOA, ").ask(Row("sing", "", under_another)).history == under_another


def test_a_request_of_a_word_is_left_where_prompts_are_all_the_same():
    same = [Row("do it now", "")] * 8
    manner = Manner.of(same, [])
    assert manner == Manner(before="do it ", after=" it now")


def test_it_is_said_in_words():
    told = str(Manner(OBEY, "AOA, do: ", " now"))
    assert told == "under the system prompt 'You obey.', beginning with 'AOA, do:', ending with 'now'"
    assert str(Manner(before="word " * 20)) == f"beginning with '{' '.join(['word'] * 11)} …'"
