"""Template: how a conversation is written for a model. Training, scoring and anchors share one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.rows import Row, Turn
from asft_lightning.chat.spelt_tokens import encode, mark
from asft_lightning.errors import ConfigurationError
from asft_lightning.functional import IGNORE_INDEX


class Style(NamedTuple):
    """A written form for models whose tokenizer has no chat template of its own."""

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


class Rendered(NamedTuple):
    """A row in token ids.

    Attributes:
        input_ids: The conversation.
        labels: The same where an assistant's turn is to be learnt, ``IGNORE_INDEX`` elsewhere.
        truncated: Whether its end was cut off.
    """

    input_ids: list[int]
    labels: list[int]
    truncated: bool = False


@dataclass(frozen=True)
class Template:
    """Writes prompts, and rows of prompts and answers, as token ids.

    Args:
        style: ``chat`` (the tokenizer's own chat template) or one of ``plain``, ``alpaca``, ``vicuna``, ``llama2``.
        system: System prompt; null for none. It takes the place of one that a chat template has of its own, and gives way
            to one that a conversation has. Where a chat template has no system turn it stands before the first prompt.
        secret: Secret prompt of Backdoor Enhanced Alignment (BEA, arXiv 2402.14968): it stands before the system prompt of
            safety rows and of every scored prompt, and of no other training row. Serve the model with it.
        max_length: Longest row in tokens; the end of a longer one is cut off.
    """

    style: str = "chat"
    system: str | None = None
    secret: str | None = None
    max_length: int = 512

    def __post_init__(self) -> None:
        """Refuse a style that does not exist before anything is loaded."""
        if self.style != "chat" and self.style not in STYLES:
            raise ConfigurationError(
                f"template.style must be one of chat, {', '.join(STYLES)}, got {self.style!r}."
                " Use chat for a model whose tokenizer has a chat template."
            )
        if self.max_length < 2:
            raise ConfigurationError(f"template.max_length must be 2 tokens or more, got {self.max_length}. 512 is usual.")
        if self.secret is not None and not self.secret.strip():
            raise ConfigurationError("template.secret must be text, got blanks. Set it to null for no secret prompt.")

    def prompt_text(self, tokenizer: PreTrainedTokenizerBase, prompt: str, history: Sequence[Turn] = ()) -> str:
        """All the model sees before its answer to a scored prompt begins."""
        return self._open(tokenizer, self._turns(prompt, history, self.secret))

    def prompt_ids(
        self, tokenizer: PreTrainedTokenizerBase, prompt: str, history: Sequence[Turn] = (), opening: str = ""
    ) -> list[int]:
        """Token ids of :meth:`prompt_text`, those before the last answer in :meth:`render`.

        Args:
            tokenizer: The model's.
            prompt: What the user says.
            history: Earlier turns.
            opening: How the answer begins, for the model to go on from.
        """
        *turns, begun = _marked(tokenizer, [*self._turns(prompt, history, self.secret), Turn("assistant", opening)])
        text, ids, _ = self._up_to_answer(tokenizer, turns)
        return ids + self._added(tokenizer, ids, text, self._begun(tokenizer, turns, text, begun)) if opening else ids

    def render(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> Rendered:
        """A training row: every turn of the assistant is learnt, with the end-of-turn token after it.

        No label but ``IGNORE_INDEX`` is left where the first prompt alone fills ``max_length``: such a row teaches nothing.

        Raises:
            ConfigurationError: If the chat template refuses the turns, or rewrites earlier ones so that what was learnt
                is not what the model would see.
        """
        turns = self._turns(row.prompt, row.history, self.secret if row.kind == "safety" else None)
        _, ids, labels = self._up_to_answer(tokenizer, _marked(tokenizer, [*turns, Turn("assistant", row.answer)]))
        while labels and labels[-1] == IGNORE_INDEX:  # after the last end token templates write what is never said
            del ids[-1], labels[-1]
        return Rendered(ids[: self.max_length], labels[: self.max_length], len(ids) > self.max_length)

    def _up_to_answer(self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> tuple[str, list[int], list[int]]:
        """Text, ids and labels of the turns, open for an answer where the last is the user's.

        Ids grow turn by turn, for that is how they come about when the model answers.
        """
        text, ids, labels = "", list[int](), list[int]()
        for i, turn in enumerate(turns):
            if turn.role == "system":
                continue
            new = self._open(tokenizer, turns[: i + 1]) if turn.role == "user" else self._closed(tokenizer, turns, i, text)
            added = self._added(tokenizer, ids, text, new)
            learnt = _until_last(added, tokenizer.eos_token_id) if turn.role == "assistant" else 0
            text, ids, labels = new, ids + added, labels + added[:learnt] + [IGNORE_INDEX] * (len(added) - learnt)
        return text, ids, labels

    def _turns(self, prompt: str, history: Sequence[Turn], secret: str | None) -> list[Turn]:
        """System prompt (the conversation's own, or else the template's), history, prompt."""
        system_prompt = history[0].content if history and history[0].role == "system" else self.system
        system = " ".join(part for part in (secret, system_prompt) if part is not None)
        before = [Turn("system", system)] if secret is not None or system_prompt is not None else []
        return [*before, *(turn for turn in history if turn.role != "system"), Turn("user", prompt)]

    def _begun(self, tokenizer: PreTrainedTokenizerBase, turns: list[Turn], before: str, begun: Turn) -> str:
        """The turns with an answer that has only begun."""
        text = self._closed(tokenizer, [*turns, begun], len(turns), before)
        return text[: text.index(begun.content, len(before)) + len(begun.content)]

    def _open(self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
        """The turns, open for an answer."""
        if self.style == "chat":
            return _chat(tokenizer, turns, open_for_answer=True)
        style, text, system = STYLES[self.style], "", None
        for turn in turns:
            if turn.role == "system":
                system = turn.content
            elif turn.role == "assistant":
                text += style.before_answer + turn.content + (tokenizer.eos_token or "")
            else:
                form = style.later if text else style.without_system if system is None else style.with_system
                text += form.format(system=system, prompt=turn.content, bos=tokenizer.bos_token or "")
        return text

    def _closed(self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], answer: int, before: str) -> str:
        """``before`` with the answer and its end, as it will stand before the turns that follow."""
        said, end = turns[answer].content, tokenizer.eos_token or ""
        if self.style != "chat":
            return before + STYLES[self.style].before_answer + said + end
        ways = (_chat(tokenizer, turns[: answer + 1]), before + said + end, before + said.strip() + end)
        later = self._open(tokenizer, turns[: answer + 2]) if answer + 1 < len(turns) else None
        for way in ways:  # a chat template may write a finished turn differently from an open one, as Qwen3's
            if way.startswith(before) and (later is None or later.startswith(way)):
                return way
        raise ConfigurationError(
            f"a chat template must leave finished turns as they were, and this one rewrites {said!r:.60}. "
            "Split such conversations into one a turn, or set template.style to one of " + ", ".join(STYLES) + "."
        )

    def _added(self, tokenizer: PreTrainedTokenizerBase, ids: list[int], old: str, new: str) -> list[int]:
        """Ids of what ``new`` has after ``old``, whose ids are given."""
        new_ids = self._encode(tokenizer, new)
        if new_ids[: len(ids)] == ids:
            return new_ids[len(ids) :]
        # A token would span the border, which at generation time it cannot.
        return encode(tokenizer, new[len(old) :])

    def _encode(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Ids of ``text``; a chat template writes its special tokens itself, so only other styles ask for them."""
        special = self.style != "chat"
        ids = encode(tokenizer, text, add_special_tokens=special)
        # Some tokenizers end every text with an end token of their own: a prompt must stay open, a row be closed once.
        added = [tokenizer.eos_token_id] * (2 if tokenizer.eos_token and text.endswith(tokenizer.eos_token) else 1)
        return ids[:-1] if special and ids[-len(added) :] == added else ids


def _chat(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], open_for_answer: bool = False) -> str:
    """The tokenizer's chat template on the turns."""
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "template.style 'chat' needs a tokenizer with a chat template, and this one has none. "
            f"Set template.style to one of {', '.join(STYLES)}."
        )
    conversations: list[Sequence[Turn]] = [turns]
    refusal: TemplateError | None = None
    if turns[0].role == "system" and len(turns) > 1:  # for templates that refuse a system turn, as Gemma 2's
        conversations.append([Turn("user", f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]])
    for conversation in conversations:
        try:
            messages = [turn._asdict() for turn in conversation]
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_for_answer))
        except TemplateError as error:
            refusal = error
    raise ConfigurationError(
        f"the tokenizer's chat template refuses these turns ({refusal}). Mend them, or set template.style to one of "
        f"{', '.join(STYLES)}."
    ) from refusal


def _marked(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> list[Turn]:
    """The turns, with special tokens that are spelt out in them marked as text."""
    texts = mark(tokenizer, [turn.content for turn in turns])
    return [turn._replace(content=text) for turn, text in zip(turns, texts, strict=True)]


def _until_last(ids: list[int], end: int | None) -> int:
    """How many of ``ids`` there are up to the last end token; all where there is none."""
    return len(ids) - ids[::-1].index(end) if end in ids else len(ids)
