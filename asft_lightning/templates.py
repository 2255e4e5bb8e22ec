"""Template: how a prompt and an answer are written for a model. Training, scoring and anchors share one object."""

from dataclasses import dataclass
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from asft_lightning.errors import ConfigurationError


class Style(NamedTuple):
    """A written form for models whose tokenizer has no chat template of its own."""

    with_system: str
    without_system: str


STYLES: dict[str, Style] = {
    "plain": Style("{system}\n\n{prompt}\n", "{prompt}\n"),
    "alpaca": Style(
        "{system}\n\n### Instruction:\n{prompt}\n\n### Response:\n",
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{prompt}\n\n### Response:\n",
    ),
    "vicuna": Style(
        "{system} USER: {prompt} ASSISTANT:",
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the user's questions. USER: {prompt} ASSISTANT:",
    ),
    "llama2": Style("[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{prompt} [/INST] ", "[INST] {prompt} [/INST] "),
}


@dataclass(frozen=True)
class Template:
    """Renders prompts, and rows of prompt and answer, into token ids.

    Args:
        style: ``chat`` (the tokenizer's own chat template) or one of ``plain``, ``alpaca``, ``vicuna``, ``llama2``.
        system: System prompt; null for none (a chat template may have one of its own).
        max_length: Longest row in tokens; the end of a longer answer is cut off.
    """

    style: str = "chat"
    system: str | None = None
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

    def prompt_text(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
        """All the model sees before its answer begins."""
        if self.style == "chat":
            return self._chat(tokenizer, prompt, None)
        style = STYLES[self.style]
        written = style.without_system if self.system is None else style.with_system
        return written.format(system=self.system, prompt=prompt)

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
        """Token ids of :meth:`prompt_text`, the same as those before the answer in :meth:`row_ids`."""
        return self._encode(tokenizer, self.prompt_text(tokenizer, prompt))

    def row_ids(self, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of its answer with the end-of-turn token, cut to ``max_length`` together.

        The answer's ids are empty where the prompt alone fills ``max_length``: such a row teaches nothing.
        """
        before = self.prompt_text(tokenizer, prompt)
        full = self._chat(tokenizer, prompt, answer) if self.style == "chat" else ""
        if not full.startswith(before):  # also where a chat template writes finished turns differently
            full = before + answer + str(tokenizer.eos_token)
        prompt_ids, full_ids = self._encode(tokenizer, before), self._encode(tokenizer, full)
        if full_ids[: len(prompt_ids)] == prompt_ids:
            answer_ids = full_ids[len(prompt_ids) :]
        else:  # a token would span the border, which at generation time it cannot
            answer_ids = tokenizer(full[len(before) :], add_special_tokens=False)["input_ids"]
        answer_ids = _until_last(answer_ids, tokenizer.eos_token_id)
        return prompt_ids, answer_ids[: max(self.max_length - len(prompt_ids), 0)]

    def _chat(self, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str | None) -> str:
        """The tokenizer's chat template on the turns; open for an answer where there is none."""
        if not tokenizer.chat_template:
            raise ConfigurationError(
                "template.style 'chat' needs a tokenizer with a chat template, and this one has none. "
                f"Set template.style to one of {', '.join(STYLES)}."
            )
        turns = [] if self.system is None else [{"role": "system", "content": self.system}]
        turns.append({"role": "user", "content": prompt})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        try:
            return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None))
        except TemplateError as error:  # some templates refuse a system turn
            raise ConfigurationError(
                f"the tokenizer's chat template refuses these turns ({error}). Leave template.system null for this model."
            ) from error

    def _encode(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Ids of ``text``; a chat template writes its special tokens itself, so only other styles ask for them."""
        special = self.style != "chat"
        ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
        # Some tokenizers end every text with an end token of their own: a prompt must stay open, a row be closed once.
        added = [tokenizer.eos_token_id] * (2 if text.endswith(str(tokenizer.eos_token)) else 1)
        return ids[:-1] if special and ids[-len(added) :] == added else ids


def _until_last(ids: list[int], end: int | None) -> list[int]:
    """Nothing after the last end token (templates write a line break there that the model never has to say)."""
    return ids[: len(ids) - ids[::-1].index(end)] if end in ids else ids
