"""JudgedText: how prompt and answer are written for a classifier, the same when it is trained and when it judges."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.spelt_tokens import encode, mark
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation.settings import check_at_least, check_text, fill

DEFAULT_TEXT = "{prompt}\n\n{answer}"
_KEY = "judge"
"""In a checkpoint's config.json."""


@dataclass(frozen=True)
class JudgedText:
    """A text of a prompt and an answer.

    A text beyond ``max_length`` loses the end of its answer, as in BeaverTails' own moderation: what was asked and how the
    answer begins says most. Its last token stays, since that is where a causal classifier reads its labels.

    Args:
        text: With ``{prompt}``, ``{answer}``, and ``{eos}`` for the tokenizer's end token.
        max_length: Longest text in tokens, as far as the tokenizer allows it.

    Raises:
        ConfigurationError: If the answer has no place in it, or ``max_length`` is less than 8.
    """

    text: str = DEFAULT_TEXT
    max_length: int = 2048

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        check_text("text", self.text)
        check_at_least(8, max_length=self.max_length)

    def longest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Tokens that a text may have."""
        return min(self.max_length, int(tokenizer.model_max_length))

    def ids(self, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> list[int] | None:
        """Token ids of the text; None if no answer would be left of it."""
        longest = self.longest(tokenizer)
        prompt, answer = mark(tokenizer, [prompt, answer])  # an answer that spells a special token must not end the text
        values = {"prompt": prompt, "answer": answer, "eos": tokenizer.eos_token or ""}
        ids = encode(tokenizer, fill(self.text, **values), add_special_tokens=True)
        if len(ids) <= longest:
            return ids
        before = encode(tokenizer, fill(self.text.partition("{answer}")[0], **values), add_special_tokens=True)
        return ids[: longest - 1] + ids[-1:] if len(before) < longest - 1 else None


@dataclass(frozen=True)
class JudgePreset:
    """What a judge that was trained here says of itself in its ``config.json``; empty for other classifiers.

    Args:
        text: As of :class:`JudgedText`; None if it does not say.
        max_length: Likewise.
        thresholds: {label: the probability above which an answer has it}.
    """

    text: str | None = None
    max_length: int | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any, location: str) -> Self:
        """The preset of a checkpoint.

        Args:
            config: Transformers' configuration.
            location: Of the checkpoint.

        Raises:
            ConfigurationError: If it is damaged.
        """
        said = getattr(config, _KEY, None)
        if said is None:
            return cls()
        try:
            thresholds = {str(label): float(threshold) for label, threshold in said["thresholds"].items()}
            if not all(0 <= threshold <= 1 for threshold in thresholds.values()):
                raise ValueError("thresholds must be 0 to 1")
            text = JudgedText(str(said["text"]), int(said["max_length"]))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigurationError(
                f"{location}: what its config.json says of the judge must be a text, a max_length and thresholds, and "
                f"cannot be used ({error!s:.200}). Mend it, or save the judge again."
            ) from error
        return cls(text.text, text.max_length, thresholds)

    def put_into(self, config: Any) -> None:
        """Have a configuration say so; it stands in ``config.json`` when the model is saved."""
        said = {"text": self.text, "max_length": self.max_length, "thresholds": dict(self.thresholds)}
        setattr(config, _KEY, said)
