"""Conversations: records that hold turns, and what stands in them beside the text."""

from collections import Counter
from typing import Any, cast

from asft_lightning.chat.rows import Row, Turn, trimmed
from asft_lightning.data.readers import Record
from asft_lightning.data.values import categories, is_nothing, truth
from asft_lightning.errors import DataError

UNREAD = "unread "
"""How the count of what is said beside a text, and is not trained on, begins; its name follows."""

_CONVERSATIONS = ("messages", "conversations")
"""Columns that hold a list of turns."""

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""{role as written: role}; ``human`` and ``gpt`` are ShareGPT's."""

_BESIDE = ("tools", "functions")
"""Columns beside the turns that say what an assistant may call."""

_READ = {"role", "from", "content", "value", "weight"}
"""What is read of a turn."""


def conversation(record: Record, category: str | None = None, counts: Counter[str] | None = None) -> Row | None:
    """A record of chat format, ``{"messages": [{"role": …, "content": …}, …]}``, as a row; None where it is none.

    The last turn of the assistant is the row's answer. A conversation that ends with the user, or with a turn of
    ``weight: 0``, has a blank one.

    Args:
        record: The record; a ``system`` beside its turns is their system prompt.
        category: The column of the kinds of harm that a prompt is about.
        counts: Gets how many turns of the assistant are ``blank_turns``, and, as ``unread NAME``, what else turns hold.

    Raises:
        DataError: If the turns are none that a model can be trained on or asked with.
    """
    column = next((name for name in _CONVERSATIONS if record.get(name) is not None), None)
    if column is None:
        return None
    if not isinstance(record[column], list):
        raise DataError(f"{column} must be a list of turns, got {record[column]!r:.60}. Store it as one, not as text")
    counts = Counter() if counts is None else counts
    counts.update(UNREAD + name for name in _BESIDE if not is_nothing(record.get(name)))
    turns = [_turn(item, counts) for item in record[column]]
    turns = [*system_beside(record, turns), *turns]
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    roles = [turn.role for turn in spoken]
    if not roles or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        raise DataError(
            "a conversation must be turns of user and assistant in alternation, after at most one of system, got "
            f"{', '.join(turn.role for turn in turns) or 'none'}"
        )
    last = turns.pop() if roles[-1] == "assistant" else Turn("assistant", "")
    prompt, answer = turns.pop().content.strip(), trimmed(last.content) if last.learnt else ""
    return Row(prompt, answer, _without_silence(turns, counts), categories=categories(record, category))


def system_beside(record: Record, turns: list[Turn]) -> list[Turn]:
    """The system prompt that stands in a column of its own, as a turn; none where the turns begin with the same.

    Raises:
        DataError: If it is no text, or they begin with another.
    """
    system = record.get("system")
    if is_nothing(system):
        return []
    if not isinstance(system, str):
        raise DataError(f"system must be text, got {system!r:.60}. Write the system prompt as text")
    if not turns or turns[0].role != "system":
        return [Turn("system", system)]
    if turns[0].content.strip() != system.strip():
        raise DataError(
            f"a conversation must have one system prompt, got {turns[0].content!r:.40} and {system!r:.40}. Remove one"
        )
    return []


def history_beside(record: Record, counts: Counter[str]) -> tuple[Turn, ...]:
    """What was said before, in the columns ``system`` and ``history`` of LLaMA-Factory's instruction files.

    Args:
        record: ``history`` is a list of [what the user said, what the assistant said].
        counts: As of :func:`conversation`.

    Raises:
        DataError: If it is something else.
    """
    if "history" not in record and "system" not in record:
        return ()  # as nearly always; what follows would find the same
    pairs = [] if is_nothing(record.get("history")) else record["history"]
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise DataError(f"history must be a list of [user, assistant] pairs of text, got {pairs!r:.60}. Rename others")
    turns = [
        _turn({"role": role, "content": said}, counts)
        for pair in pairs
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    return _without_silence([*system_beside(record, []), *turns], counts)


def _turn(item: Any, counts: Counter[str]) -> Turn:
    known = item if isinstance(item, dict) else {}
    role, content = known.get("role", known.get("from")), known.get("content", known.get("value"))
    if not isinstance(role, str) or role not in _ROLES or not isinstance(content, str):
        raise DataError(f"a turn must have a role ({', '.join(_ROLES)}) and a content of text, got {item!r:.60}")
    counts.update(UNREAD + key for key, part in known.items() if key not in _READ and not is_nothing(part))
    weight = known.get("weight")
    if (is_learnt := is_nothing(weight) or truth(weight)) is None:
        raise DataError(f"a turn's weight must be 1 or, for one that is not to be learnt, 0, got {weight!r:.60}. Write one")
    return Turn(cast(Any, _ROLES[role]), content, is_learnt)


def _without_silence(turns: list[Turn], counts: Counter[str]) -> tuple[Turn, ...]:
    """The turns, of which blank ones of the assistant are not learnt: they would teach to end an answer at once."""
    are_blank = [turn.role == "assistant" and not turn.content.strip() for turn in turns]
    counts.update("blank_turns" for blank in are_blank if blank)
    return tuple(turn._replace(learnt=turn.learnt and not blank) for turn, blank in zip(turns, are_blank, strict=True))
