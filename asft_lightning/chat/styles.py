"""Styles: written forms for models whose tokenizer has no chat template of its own."""

from collections.abc import Sequence
from typing import NamedTuple

from asft_lightning.chat.rows import Turn
from asft_lightning.chat.written import Written


class Style(NamedTuple):
    """How a conversation is written."""

    with_system: str
    """Up to the first answer, where there is a system prompt."""
    without_system: str
    later: str
    """From the end of an answer to the beginning of the next."""
    before_answer: str = ""
    """What an answer begins with: a blank that is no part of the prompt, for a token takes it together with a word."""


STYLES: dict[str, Style] = {
    "plain": Style("{system}\n\n{prompt}\n", "{prompt}\n", "\n{prompt}\n"),
    "alpaca": Style(
        "{system}\n\n### Instruction:\n{prompt}\n\n### Response:\n",
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{prompt}\n\n### Response:\n",
        "\n\n### Instruction:\n{prompt}\n\n### Response:\n",
    ),
    "vicuna": Style(
        "{system} USER: {prompt} ASSISTANT:",
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the user's questions. USER: {prompt} ASSISTANT:",
        "USER: {prompt} ASSISTANT:",
        " ",
    ),
    "llama2": Style(
        "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{prompt} [/INST]",
        "[INST] {prompt} [/INST]",
        "{bos}[INST] {prompt} [/INST]",
        " ",
    ),
}


def write_in_style(style: Style, turns: Sequence[Turn], bos: str, eos: str) -> Written:
    """The turns in a style, with the spans of the answers; open for the next where the last turn is the user's.

    Args:
        style: One of :data:`STYLES`.
        turns: At most one of the system first, then of user and assistant.
        bos: What the tokenizer begins a text with.
        eos: What it ends one with; so does each answer.
    """
    text, system, spans = "", None, {}
    for place, turn in enumerate(turns):
        if turn.role == "system":
            system = turn.content
        elif turn.role == "assistant":
            begin = len(text) + len(style.before_answer)
            spans[place] = begin, begin + len(turn.content)
            text += style.before_answer + turn.content + eos
        else:
            form = style.later if text else style.without_system if system is None else style.with_system
            text += form.format(system=system, prompt=turn.content, bos=bos)
    return Written(text, spans)
