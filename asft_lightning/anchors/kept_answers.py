"""KeptAnswers: what the aligned model answers to some prompts, and what it has in mind at each token of it; as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asft_lightning.errors import AnchorError
from asft_lightning.runtime.files import write_atomically
from asft_lightning.runtime.reading import is_finite
from asft_lightning.weights.hashing import content_hash

_TENSORS = ("input_ids", "prompt_lengths", "lengths", "hidden")


@dataclass(frozen=True)
class KeptAnswers:
    """The aligned model's own answers, ``n`` of them; made by :class:`Answers`.

    The last hidden states stand for the next-token distributions: the frozen head makes exactly those of them again, and
    they are as wide as the model, not as its vocabulary.

    Args:
        input_ids: Prompts with their answers (n, longest), int64, filled up with 0.
        prompt_lengths: Tokens of each prompt (n,), int64.
        lengths: Tokens of each prompt with its answer (n,), int64.
        hidden: What the head was given before each token of the answer and after the last (n, longest answer + 1, width).
        prompts: A hash of each prompt (:func:`prompt_hash`), for those must not be scored.
    """

    FORMAT: ClassVar[str] = "asft-lightning answers 1"

    input_ids: Tensor
    prompt_lengths: Tensor
    lengths: Tensor
    hidden: Tensor
    prompts: tuple[str, ...]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        metadata = {"format": self.FORMAT, "prompts": " ".join(self.prompts), "sha256": self.sha256()}
        write_atomically(Path(path), save(self._tensors(), metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of :meth:`save`; nothing in it is executed.

        Raises:
            AnchorError: If it is absent, damaged, not of this format, or its parts do not fit each other.
        """
        try:
            with torch.device("cpu"), safe_open(path, framework="pt") as handle:
                metadata: Mapping[str, str] = handle.metadata() or {}
                tensors = {name: handle.get_tensor(name).clone() for name in _TENSORS}
            if metadata.get("format") != cls.FORMAT:
                raise ValueError(f"it is not of format {cls.FORMAT!r}")
            answers = cls(**tensors, prompts=tuple(metadata["prompts"].split()))
            answers._require_sound()
            if metadata["sha256"] != answers.sha256():
                raise ValueError("its content is not what was written")
        except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
            raise AnchorError(f"{path} cannot be read as answers ({error}). Build them again.") from error
        return answers

    def are_to(self, prompts: Sequence[Sequence[int]]) -> bool:
        """Whether these are answers to these prompts, in their order.

        Args:
            prompts: Token ids of each.
        """
        own = zip(self.input_ids.tolist(), self.prompt_lengths.tolist(), strict=True)
        return [ids[:length] for ids, length in own] == [list(prompt) for prompt in prompts]

    def sha256(self) -> str:
        """Hash of the content, to record what a run was protected with."""
        return content_hash(
            [*sorted(self._tensors().items()), (" ".join(self.prompts), torch.empty(0, dtype=torch.float32, device="cpu"))]
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).contiguous() for name in _TENSORS}

    def _require_sound(self) -> None:
        """Refuse parts that do not fit.

        Raises:
            ValueError: If so, with the rule.
        """
        count, longest = self.input_ids.shape
        are_whole = all(t.dtype == torch.int64 for t in (self.input_ids, self.prompt_lengths, self.lengths))
        if not are_whole or not count or not self.prompt_lengths.shape == self.lengths.shape == (count,):
            raise ValueError("ids and lengths must be int64, one row or more")
        answered = self.lengths - self.prompt_lengths + 1
        fits = bool(((self.prompt_lengths >= 1) & (answered >= 1) & (self.lengths <= longest)).all())
        if not fits or bool((self.input_ids < 0).any()) or self.hidden.shape[:2] != (count, int(answered.max())):
            raise ValueError("each row must hold a prompt, an answer, and a hidden state before each token of it")
        if not self.hidden.is_floating_point() or not is_finite(self.hidden):
            raise ValueError("hidden states must be finite numbers")
        is_counted = torch.arange(self.hidden.shape[1], device=answered.device) < answered.unsqueeze(1)
        if bool((is_counted & ~self.hidden.any(-1)).any()):
            raise ValueError("hidden states must not be 0: they would hold a model to saying anything alike")
