"""Probe: the aligned model at work, for anchors on what prompts activate in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.anchors.kept_answers import KeptAnswers
from asft_lightning.anchors.margin_moments import ANSWER_TOKENS, MarginMoments
from asft_lightning.anchors.second_moment import SecondMoment
from asft_lightning.anchors.sensitivity import Sensitivity
from asft_lightning.anchors.watching import InputWatch, hooked, layers_of
from asft_lightning.chat.batching import PaddedBatch, batches_by_length, padded
from asft_lightning.chat.rows import Row, prompt_hash
from asft_lightning.chat.template import Template
from asft_lightning.chat.vocabulary import require_known
from asft_lightning.errors import AnchorError
from asft_lightning.evaluation import generate_ids
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.adapters_off import without_adapters
from asft_lightning.weights.targets import Target

Tokens = Literal["all", "last", "answer"]
"""Whose inputs count: every token's of a prompt, its last one's, or that and the model's own first answer tokens'."""

_ANSWER_TOKENS = 8


class Activations(NamedTuple):
    """What some prompts put into layers, and how the model's way of beginning its answers depends on what they put out.

    Attributes:
        moments: {layer: the second moment of its inputs}; layers that are given the same share one.
        sensitivity: Of the model to the layers.
    """

    moments: dict[str, SecondMoment]
    sensitivity: Sensitivity


@dataclass(frozen=True)
class Probe:
    """The aligned model, and how prompts are written for it.

    Args:
        model: The model, or a function that loads it when it is needed. An adapter on it is switched off while it is run.
        tokenizer: Its tokenizer.
        template: How prompts are written: as in training.
        device: Where to run a model that is loaded; None for where it is loaded to. A given model stays where it is.
        loading: How its weights are loaded (dtype, quantisation), which tells its anchors from another's in a cache.
    """

    model: PreTrainedModel | PeftModel | Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    template: Template = Template()  # noqa: RUF009 (frozen)
    device: torch.device | str | None = None
    loading: str = ""

    def prompt_ids(self, rows: Sequence[Row]) -> list[list[int]]:
        """The prompts of ``rows`` as they are put to the model."""
        return [self.template.prompt_ids(self.tokenizer, row.prompt, row.history) for row in rows]

    def activations(
        self, rows: Sequence[Row], targets: Sequence[Target], tokens: Tokens, capacity: int, batch_size: int
    ) -> Activations:
        """What the prompts of ``rows`` put into ``targets``, and how the model's answers begin by these: a pass and back.

        Args:
            rows: Prompts; their answers are not looked at.
            targets: Layers by name.
            tokens: Which tokens' inputs count. ``answer`` has the model begin an answer to each prompt first.
            capacity: Of each :class:`SecondMoment`.
            batch_size: Prompts a batch.

        Raises:
            AnchorError: If a layer is not run on every token of the prompts, or is given what is not finite.
            ConfigurationError: If a prompt has token ids that the model has no embedding for.
        """
        prompts = self.prompt_ids(rows)
        moments = {target.name: SecondMoment(target.shape[1], capacity) for target in targets}
        with self._running() as model:
            model.requires_grad_(False)
            texts, firsts = prompts, [0 if tokens == "all" else len(ids) - 1 for ids in prompts]
            if tokens == "answer":
                texts = self._begun(model, prompts, batch_size)
            require_known(texts, model.config.get_text_config().vocab_size, "prompts")
            layers, watch = layers_of(model, moments), InputWatch(moments)
            sensitivity = Sensitivity(model, [layer for _, layer in layers])
            with hooked(layer.register_forward_pre_hook(watch.of(name)) for name, layer in layers):
                for places, batch in _batches(texts, batch_size, model, "Activations"):
                    place = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
                    first = torch.tensor([firsts[i] for i in places], device=place.device)
                    watch.counted = batch.attention_mask.bool() & (place >= first[:, None])
                    sensitivity.add(batch, [len(prompts[i]) - 1 for i in places])
        expected = sum(len(text) - first for text, first in zip(texts, firsts, strict=True))
        if fewer := [name for name, moment in moments.items() if moment.count < expected]:
            raise AnchorError(
                f"{fewer[0]}: Activation needs layers that every token goes through, and this one saw "
                f"{moments[fewer[0]].count} of {expected}. Leave it out of target_modules, or use another anchor."
            )
        return Activations(moments, sensitivity)

    def margin_moments(
        self, rows: Sequence[Row], targets: Sequence[Target], capacity: int, batch_size: int
    ) -> MarginMoments:
        """What the prompts of ``rows`` put into ``targets``, and what of their outputs the model's own answers begin by.

        Args:
            rows: Prompts; their answers are not looked at.
            targets: Layers by name.
            capacity: Of each :class:`SecondMoment`.
            batch_size: Prompts a batch.

        Raises:
            AnchorError: If a layer is not run on every token, or something is not finite.
            ConfigurationError: If a prompt has token ids that the model has no embedding for.
        """
        prompts = self.prompt_ids(rows)
        with self._running() as model:
            model.requires_grad_(False)
            texts = self._begun(model, prompts, batch_size, ANSWER_TOKENS - 1)  # the last one's margin needs no more
            found = MarginMoments(model, targets, capacity)
            for places, batch in _batches(texts, batch_size, model, "Margins"):
                found.add(batch, [len(prompts[i]) - 1 for i in places])
        found.require_complete()
        return found

    def answers(self, rows: Sequence[Row], max_new_tokens: int, batch_size: int) -> KeptAnswers:
        """The model's own greedy answers to the prompts of ``rows``, with what its head is given at each of their tokens.

        Args:
            rows: Prompts; their answers are not looked at.
            max_new_tokens: Of an answer; 0 for the state at each prompt's last token alone.
            batch_size: Prompts a batch.

        Raises:
            ConfigurationError: If a prompt has token ids that the model has no embedding for.
        """
        prompts = self.prompt_ids(rows)
        with self._running() as model:
            texts = self._begun(model, prompts, batch_size, max_new_tokens)
            states: list[Tensor] = [torch.empty(0)] * len(texts)
            head, given = model.get_output_embeddings(), list[Tensor]()
            with hooked([head.register_forward_pre_hook(lambda _, args: given.append(args[0]))]):
                for places, batch in _batches(texts, batch_size, model, "Answers' states"):
                    model(**batch._asdict(), use_cache=False)
                    for row, i in zip(given.pop(), places, strict=True):
                        states[i] = row[len(prompts[i]) - 1 : len(texts[i])].cpu()
        return KeptAnswers(
            input_ids=padded(texts, 0, torch.device("cpu")).input_ids,
            prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
            lengths=torch.tensor([len(text) for text in texts]),
            hidden=nn.utils.rnn.pad_sequence(states, batch_first=True),
            prompts=tuple(prompt_hash(row.prompt) for row in rows),
        )

    def loaded(self) -> "Probe":
        """This probe with its model in memory, as long as it is kept."""
        if isinstance(self.model, nn.Module):
            return self
        model = self.model()
        if self.device is not None and not getattr(model, "is_quantized", False):
            model = model.to(self.device)
        return replace(self, model=model)

    @contextmanager
    def _running(self) -> Iterator[PreTrainedModel | PeftModel]:
        """The model in eval mode and without its adapter."""
        model = self.loaded().model
        assert isinstance(model, nn.Module)
        with without_adapters(model), undisturbed(model):
            yield model

    def _begun(
        self,
        model: PreTrainedModel | PeftModel,
        prompts: Sequence[list[int]],
        batch_size: int,
        max_new_tokens: int = _ANSWER_TOKENS,
    ) -> list[list[int]]:
        """Each prompt with the answer that the model begins."""
        if max_new_tokens == 0:
            return list(prompts)
        answers = generate_ids(
            model,
            self.tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            ends=[self.template.end(self.tokenizer).token_id],
            progress="Answers",
        )
        return [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]


def _batches(
    texts: Sequence[list[int]], batch_size: int, model: nn.Module, caption: str
) -> Iterator[tuple[list[int], PaddedBatch]]:
    """The texts' places and the texts, a batch at a time, where the model is; with a progress bar."""
    device = next(model.parameters()).device
    for places in tqdm(batches_by_length(texts, batch_size), desc=caption, unit="batch", leave=False):
        yield places, padded([texts[i] for i in places], 0, device)
