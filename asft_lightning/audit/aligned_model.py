"""AlignedModel: the aligned model, asked."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.chat.batching import batches_by_length, padded
from asft_lightning.chat.template import Template
from asft_lightning.chat.vocabulary import require_known
from asft_lightning.evaluation import RefusalJudge, generate_ids
from asft_lightning.evaluation.likelihood import answer_log_likelihoods
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.hashing import text_hash
from asft_lightning.weights.matrices import open_weights
from asft_lightning.weights.pretrained import Pretrained


class AlignedModel:
    """What the aligned model says to prompts, and how likely it finds answers; loaded when it is first asked.

    Args:
        pretrained: The checkpoints.
        tokenizer: Theirs.
        template: How prompts are written.
        device: Where to run it; None for where it is loaded to.
        batch_size: Prompts a batch.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        device: torch.device | str | None = None,
        batch_size: int = 32,
    ) -> None:
        self._pretrained = replace(pretrained, start="aligned")
        self._tokenizer = tokenizer
        self._template = template
        self._ends = [template.end(tokenizer).token_id]
        self._device = device
        self._batch_size = batch_size
        self._judge = RefusalJudge()
        self._said: dict[tuple[int, bytes], list[int]] = {}

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model."""
        model = self._pretrained.load_model()
        is_placed = self._device is None or getattr(model, "is_quantized", False)
        return model if is_placed else model.to(self._device)

    @cached_property
    def identity(self) -> str:
        """What tells its answers from another model's: the content of its weights, and how they are loaded."""
        weights = open_weights(self._pretrained.aligned, self._pretrained.revision)
        return text_hash(weights.whole_fingerprint(), self._pretrained.loading, str(self._ends))

    def answers(self, prompts: Sequence[list[int]], max_new_tokens: int, progress: str) -> list[list[int]]:
        """Its greedy answers up to their end, as token ids; what it has been asked before it is not asked again."""
        keys = [(max_new_tokens, array("i", prompt).tobytes()) for prompt in prompts]
        if new := {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._said}:
            answers = generate_ids(
                self.model,
                self._tokenizer,
                list(new.values()),
                max_new_tokens=max_new_tokens,
                batch_size=self._batch_size,
                ends=self._ends,
                progress=progress,
            )
            self._said |= dict(zip(new, answers, strict=True))
        return [self._said[key] for key in keys]

    def forget(self) -> None:
        """Let go of what it said."""
        self._said.clear()

    def log_likelihoods(self, prompts: Sequence[list[int]], answers: Sequence[list[int]], progress: str) -> list[Tensor]:
        """Of each token of the answers, in nats, float64."""
        return answer_log_likelihoods(self.model, prompts, answers, batch_size=self._batch_size, progress=progress)

    def states(self, prompts: Sequence[list[int]], progress: str) -> Iterator[tuple[list[int], Tensor]]:
        """Each layer's output at the last token of each prompt: places of prompts, and (prompts, layers, width), float64."""
        device = next(self.model.parameters()).device
        batches = batches_by_length(prompts, self._batch_size)
        require_known(prompts, self.model.config.get_text_config().vocab_size, "prompts")
        for places in tqdm(batches, desc=progress, unit="batch", leave=False):
            batch = padded([prompts[i] for i in places], 0, device)
            with undisturbed(self.model):
                layers = self.model(**batch._asdict(), output_hidden_states=True, use_cache=False).hidden_states[1:]
            last = batch.attention_mask.sum(1) - 1
            rows = torch.arange(len(places), device=device)
            yield places, torch.stack([layer[rows, last] for layer in layers], dim=1).double().cpu()

    def prompt_ids(self, prompt: str) -> list[int]:
        """A user's prompt, nothing before it, in token ids."""
        return self._template.prompt_ids(self._tokenizer, prompt)

    def text(self, ids: Sequence[int]) -> str:
        """What token ids read as, without special tokens and blanks around it."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def is_refusal(self, ids: Sequence[int]) -> bool:
        """Whether an answer refuses."""
        return self._judge.is_refusal(self.text(ids))
