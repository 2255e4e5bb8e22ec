"""Template: how a conversation is written for a model. Training, scoring and anchors share one object."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate
from typing import NamedTuple
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.chat_template import write_chats
from asft_lightning.chat.dates import require_day, today
from asft_lightning.chat.ends import End, find_end
from asft_lightning.chat.pieces import Piece, pieces, to_write
from asft_lightning.chat.rows import Row, Turn, require_text
from asft_lightning.chat.spelt_tokens import encode, encode_all, mark
from asft_lightning.chat.styles import STYLES, write_in_style
from asft_lightning.chat.written import Written
from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.functional import IGNORE_INDEX

_ENDS: WeakKeyDictionary[PreTrainedTokenizerBase, dict[object, End]] = WeakKeyDictionary()


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
        enable_thinking: Given to the chat template under this name, for those that look at it, as Qwen3's; null for the
            template's default.
        date: The day that a chat template writes where it writes one, as ``2025-07-26``; null for that on which the run
            began.
        safety_prompt: System prompt of every scored prompt, and of no training row (PTST, arXiv 2402.18540); it stands
            before the one that there is. Serve the model with it.
    """

    style: str = "chat"
    system: str | None = None
    secret: str | None = None
    max_length: int = 512
    enable_thinking: bool | None = None
    date: str | None = None
    safety_prompt: str | None = None
    _today: str = field(default_factory=today, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be before anything is loaded."""
        if self.style != "chat" and self.style not in STYLES:
            raise ConfigurationError(
                f"template.style must be one of chat, {', '.join(STYLES)}, got {self.style!r}."
                " Use chat for a model whose tokenizer has a chat template."
            )
        if self.max_length < 2:
            raise ConfigurationError(f"template.max_length must be 2 tokens or more, got {self.max_length}. 512 is usual.")
        for name in ("secret", "safety_prompt", "system"):
            _require_said(name, getattr(self, name))
        if self.enable_thinking is not None and self.style != "chat":
            raise ConfigurationError(
                f"template.enable_thinking is for style chat, got style {self.style!r}. Set it to null, or style to chat."
            )
        if self.date is not None:
            require_day(self.date)

    @property
    def day(self) -> str:
        """The day that a chat template writes."""
        return self.date or self._today

    def on(self, day: str) -> "Template":
        """The template of this day: itself, or one that is the same but for its date."""
        return self if day == self.day else replace(self, date=day)

    def prompt_text(self, tokenizer: PreTrainedTokenizerBase, prompt: str, history: Sequence[Turn] = ()) -> str:
        """All the model sees before its answer to a scored prompt begins."""
        return self._write(tokenizer, [self._turns(prompt, history, *self._asked)])[0].text

    def prompt_ids(
        self, tokenizer: PreTrainedTokenizerBase, prompt: str, history: Sequence[Turn] = (), opening: str = ""
    ) -> list[int]:
        """Token ids of :meth:`prompt_text`, those before the last answer in :meth:`render`.

        Args:
            tokenizer: The model's.
            prompt: What the user says.
            history: Earlier turns.
            opening: How the answer begins, for the model to go on from.

        Raises:
            ConfigurationError: As :meth:`render`.
        """
        turns = self._turns(prompt, history, *self._asked)
        (parts,) = self._pieces(tokenizer, [[*turns, Turn("assistant", opening)] if opening else turns])
        if opening:
            parts[-1] = parts[-1].open(blanks=opening[len(opening.rstrip()) :])
        return [token for ids in self._ids(tokenizer, [parts])[0] for token in ids]

    def render(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> Rendered:
        """A training row: every turn of the assistant is learnt, with the end-of-turn token after it.

        It is what the template writes of the whole conversation, up to the end of the last answer. No label but
        ``IGNORE_INDEX`` is left where the first prompt alone fills ``max_length``: such a row teaches nothing.

        Raises:
            ConfigurationError: If the chat template refuses the turns, leaves out some of them, or rewrites earlier ones so
                that what was learnt is not what the model would see; or if there is no token to end an answer with.
        """
        return self.render_all(tokenizer, [row])[0]

    def render_all(self, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row]) -> list[Rendered]:
        """:meth:`render` of each row, much faster for many: they are written and tokenized in one go.

        Raises:
            ConfigurationError: As :meth:`render`.
        """
        conversations = [
            [
                *self._turns(row.prompt, row.history, *([self.secret] if row.kind == "safety" else [])),
                Turn("assistant", row.answer),
            ]
            for row in rows
        ]
        parts = self._pieces(tokenizer, conversations)
        return [self._rendered(*both) for both in zip(parts, self._ids(tokenizer, parts), strict=True)]

    def _rendered(self, parts: Sequence[Piece], ids_of_parts: Sequence[list[int]]) -> Rendered:
        ids, labels = list[int](), list[int]()
        for part, added in zip(parts, ids_of_parts, strict=True):
            ids += added
            labels += added if part.learnt else [IGNORE_INDEX] * len(added)
        return Rendered(ids[: self.max_length], labels[: self.max_length], len(ids) > self.max_length)

    def end(self, tokenizer: PreTrainedTokenizerBase) -> End:
        """The token that ends an answer, as a row teaches it: generation has to stop there.

        Raises:
            ConfigurationError: If neither the template nor the tokenizer has one.
        """
        known = _ENDS.setdefault(tokenizer, {})
        key = self, str(tokenizer.chat_template), tokenizer.eos_token, len(tokenizer)
        if key not in known:
            # With a system turn: templates that refuse one are known to be helped, those that demand one are not.
            turns = Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Ho")
            (written,) = self._write(tokenizer, [turns])
            known[key] = find_end(tokenizer, written.text[written.spans[2][1] :])
        return known[key]

    def asked(self, prompt: str) -> list[Turn]:
        """The turns of a scored prompt, with its system prompts: what a server has to be sent to give what was measured."""
        return self._turns(prompt, (), *self._asked)

    @property
    def _asked(self) -> tuple[str | None, str | None]:
        """What stands before the system prompt of every scored prompt."""
        return self.secret, self.safety_prompt

    def _turns(self, prompt: str, history: Sequence[Turn], *first: str | None) -> list[Turn]:
        """System prompt (the conversation's own, or else the template's) with what comes first in it, history, prompt."""
        system_prompt = history[0].content if history and history[0].role == "system" else self.system
        parts = [part for part in (*first, system_prompt) if part is not None]
        before = [Turn("system", " ".join(parts))] if parts else []
        return [*before, *(turn for turn in history if turn.role != "system"), Turn("user", prompt)]

    def _write(self, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Turn]]) -> list[Written]:
        """The turns of each conversation, open for an answer where the last is the user's."""
        if self.style == "chat":
            return write_chats(tokenizer, conversations, self.day, self.enable_thinking)
        bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
        return [write_in_style(STYLES[self.style], turns, bos, eos) for turns in conversations]

    def _pieces(self, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[list[Turn]]) -> list[list[Piece]]:
        """Each conversation in pieces, with special tokens that are spelt out in it marked as text."""
        texts = iter(mark(tokenizer, (turn.content for turns in conversations for turn in turns)))
        marked = [[Turn(turn.role, next(texts), turn.learnt) for turn in turns] for turns in conversations]
        written = iter(self._write(tokenizer, [some for turns in marked for some in to_write(turns)]))
        find_end = cache(partial(self.end, tokenizer))
        return [list(pieces(written, turns, find_end)) for turns in marked]

    def _ids(self, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Piece]]) -> list[list[list[int]]]:
        """Token ids of each piece; they grow piece by piece, for that is how they come about when the model answers."""
        texts = [text for parts in conversations for text in accumulate(part.text for part in parts)]
        wholes = iter(self._encode(tokenizer, texts))
        grown_of_all = []
        for parts in conversations:
            ids, grown = list[int](), list[list[int]]()
            for part in parts:
                whole = next(wholes)
                # Else a token would span the border, which at generation time it cannot.
                added = whole[len(ids) :] if whole[: len(ids)] == ids else encode(tokenizer, part.text)
                ids += added
                grown.append(added)
            grown_of_all.append(grown)
        return grown_of_all

    def _encode(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
        """Ids of ``texts``; a chat template writes its special tokens itself, so only other styles ask for them."""
        special = self.style != "chat"
        ids_of_all = encode_all(tokenizer, texts, add_special_tokens=special)
        if not special or not tokenizer.eos_token:
            return ids_of_all
        # Some tokenizers end every text with an end token of their own: a prompt must stay open, a row be closed once.
        ends = [[tokenizer.eos_token_id] * (2 if text.endswith(tokenizer.eos_token) else 1) for text in texts]
        return [ids[:-1] if ids[-len(end) :] == end else ids for ids, end in zip(ids_of_all, ends, strict=True)]


def _require_said(name: str, text: str | None) -> None:
    if name != "system" and text is not None and not text.strip():
        raise ConfigurationError(f"template.{name} must be text, got blanks. Set it to null for none.")
    try:
        require_text(text or "")
    except DataError as error:
        raise ConfigurationError(f"template.{name}: {error}.") from error
