"""The tokenizer's own chat template, called so that it writes all that it is given."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.copying import only_copies
from asft_lightning.chat.dates import dated
from asft_lightning.chat.rows import Turn
from asft_lightning.chat.shapes import write_by_shape
from asft_lightning.chat.spelt_tokens import bare
from asft_lightning.chat.styles import STYLES
from asft_lightning.chat.written import Written, find_marks, with_marks, without_marks
from asft_lightning.errors import ConfigurationError

_STYLE = f"template.style to one of {', '.join(STYLES)}"


def write_chats(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Turn]],
    day: str,
    enable_thinking: bool | None = None,
) -> list[Written]:
    """Turns as the tokenizer's chat template writes them; open for an answer where the last is the user's.

    Templates that take contents as lists of parts get such. For those that refuse a system turn, or leave it out, it stands
    before the first prompt.

    Args:
        tokenizer: The model's.
        conversations: Turns, of each at most one of the system first, then of user and assistant.
        day: What the template is told of the date, as ``2025-07-26``.
        enable_thinking: What it is told under this name; None for nothing.

    Raises:
        ConfigurationError: If there is no chat template, or it refuses the turns, does not write all of their texts, or
            does not look at ``enable_thinking``.
    """
    options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    template = dated(_template(tokenizer, enable_thinking), day)
    render = partial(tokenizer.apply_chat_template, chat_template=template, tokenize=False, **options)
    conversations = without_marks(conversations)
    write_many = write_by_shape if only_copies(template) else _in_the_plainest_way
    written = write_many(render, conversations)
    return [one or _in_some_way(tokenizer, render, turns) for one, turns in zip(written, conversations, strict=True)]


def _in_the_plainest_way(render: Callable[..., Any], conversations: Sequence[Sequence[Turn]]) -> list[Written | None]:
    """The conversations written together; None for one that takes another way, and where one of them is refused."""
    written: list[Written | None] = [None] * len(conversations)
    for is_open in (False, True):
        places = [i for i, turns in enumerate(conversations) if (turns[-1].role == "user") == is_open]
        if len(places) < 2:
            continue  # as well written alone
        messages = [next(_ways(with_marks(conversations[i])))[1] for i in places]
        try:
            texts = render(messages, add_generation_prompt=is_open)
        except Exception:  # a template is a program, and may raise anything
            continue
        for i, text in zip(places, texts, strict=True):
            found = find_marks(text, conversations[i])
            written[i] = found if found.lacks(conversations[i]) is None else None
    return written


def _in_some_way(tokenizer: PreTrainedTokenizerBase, render: Callable[..., Any], turns: Sequence[Turn]) -> Written:
    """One conversation in the first way that writes all of it."""
    problem: ConfigurationError | None = None
    for in_parts, messages in _ways(with_marks(turns)):
        try:
            text = render(messages, add_generation_prompt=turns[-1].role == "user")
        except Exception as error:
            problem = problem if in_parts else _refused(tokenizer, error)
            continue
        written = find_marks(str(text), turns)
        lacking = written.lacks(turns)
        if lacking is None:
            return written
        problem = problem if in_parts else _left_out(tokenizer, lacking)
    assert problem is not None
    raise problem


def _template(tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None) -> str:
    """The chat template's source."""
    if not tokenizer.chat_template:
        raise ConfigurationError(
            f"template.style 'chat' needs a tokenizer with a chat template, and this one has none. Set {_STYLE}."
        )
    template = str(tokenizer.get_chat_template())
    if enable_thinking is not None and "enable_thinking" not in template:
        raise ConfigurationError(
            f"template.enable_thinking {enable_thinking} needs a chat template that looks at it, and that of "
            f"{tokenizer.name_or_path!r} does not. Set it to null."
        )
    return template


def _ways(turns: Sequence[Turn]) -> Iterator[tuple[bool, list[dict[str, Any]]]]:
    """Messages for a chat template, and whether their contents are lists of parts; the plainest way first."""
    conversations = [turns]
    if turns[0].role == "system" and len(turns) > 1:
        conversations.append([Turn("user", f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]])
    for conversation in conversations:
        for in_parts in (False, True):
            yield (
                in_parts,
                [
                    {"role": turn.role, "content": [{"type": "text", "text": turn.content}] if in_parts else turn.content}
                    for turn in conversation
                ],
            )


def _refused(tokenizer: PreTrainedTokenizerBase, error: Exception) -> ConfigurationError:
    problem = ConfigurationError(
        f"the chat template of {tokenizer.name_or_path!r} refuses these turns ({error}). Mend them, or set {_STYLE}."
    )
    problem.__cause__ = error
    return problem


def _left_out(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> ConfigurationError:
    return ConfigurationError(
        f"a chat template must write all that it is given, and that of {tokenizer.name_or_path!r} leaves out or changes "
        f"what the {turn.role} says: {bare(turn.content)!r:.60}. Take it out of the rows or the settings, or set {_STYLE}."
    )
