"""AlignedModel: the aligned model, asked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.audit.kept_facts import KeptFacts, fact_key
from asft_lightning.chat.batching import batches_by_length
from asft_lightning.chat.template import Template
from asft_lightning.chat.vocabulary import require_known
from asft_lightning.data.collate import AnswerOnlyCollator
from asft_lightning.data.example import Example
from asft_lightning.evaluation import RefusalJudge, generate_ids
from asft_lightning.evaluation.likelihood import answer_log_likelihoods, logits_at
from asft_lightning.evaluation.shared_beginning import SharedBeginning
from asft_lightning.runtime.precision import casting_once
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.hashing import text_hash
from asft_lightning.weights.matrices import open_weights
from asft_lightning.weights.pretrained import Pretrained

Places = Sequence[int]
Found = Iterable[tuple[Places, Sequence[Sequence[float]]]]
"""A batch at a time: places of questions, and the numbers of each."""

T = TypeVar("T")

_TRAINED_SHARE = 4
"""So many times fewer rows are in a batch that is run back through as well: what every layer holds is kept for that."""

_BEFORE_ANSWER = -1
"""Between a prompt and its answer in a question: no token's id."""


class AlignedModel:
    """What the aligned model says to prompts, and how likely it finds answers; loaded when there is anything to ask it.

    Each answer is kept in the user's cache as soon as it is known: the same prompt is never asked twice.

    Args:
        pretrained: The checkpoints.
        tokenizer: Theirs.
        template: How prompts are written.
        device: Where to run it; None for where it is loaded to.
        batch_size: Prompts a batch.
        precision: A run's plugin, to ask it as the run would; None for the precision that it is loaded in.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        device: torch.device | str | None = None,
        batch_size: int = 32,
        precision: Precision | None = None,
    ) -> None:
        self._pretrained = replace(pretrained, start="aligned")
        self._tokenizer = tokenizer
        self._template = template
        self._ends = [template.end(tokenizer).token_id]
        self._device = device
        self._batch_size = batch_size
        self._precision = precision or Precision()
        self._judge = RefusalJudge()

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model."""
        model = self._pretrained.load_model()
        if getattr(model, "is_quantized", False):
            return model  # on its device, and computing in its dtype
        converted: PreTrainedModel = self._precision.convert_module(model)
        return converted if self._device is None else converted.to(self._device)

    @cached_property
    def _beginning(self) -> SharedBeginning:
        """What prompts begin with alike, run once."""
        return SharedBeginning(self.model)

    @cached_property
    def identity(self) -> str:
        """What tells its answers from another model's: its weights' content, how they are loaded, and the precision."""
        weights = open_weights(self._pretrained.aligned, self._pretrained.revision)
        precision = f"{type(self._precision).__name__} {self._precision.precision}"
        return text_hash(weights.whole_fingerprint(), self._pretrained.loading, precision, str(self._ends))

    @cached_property
    def _facts(self) -> KeptFacts:
        return KeptFacts(self.identity)

    def recalled(self, what: str, questions: Sequence[Sequence[int]], find: Callable[[Places], Found]) -> list[list[float]]:
        """Facts about token ids: what is kept of them, and what is found of the others, which is kept batch by batch.

        Args:
            what: What is asked about them, with all that the facts depend on.
            questions: Token ids.
            find: From the places of the questions to be asked to their facts.
        """
        keys = [fact_key(what, question) for question in questions]
        known = self._facts.recall(keys)
        new = list({key: place for place, key in enumerate(keys) if key not in known}.values())
        for places, facts in find(new) if new else ():
            found = {keys[place]: list(fact) for place, fact in zip(places, facts, strict=True)}
            self._facts.keep(found)
            known |= found
        return [known[key] for key in keys]

    def answers(self, prompts: Sequence[list[int]], max_new_tokens: int, progress: str) -> list[list[int]]:
        """Its greedy answers up to their end, as token ids."""

        def find(new: Places) -> Found:
            for places in self._batches([prompts[i] for i in new], new, progress):
                with self._precision.forward_context(), casting_once():
                    said = generate_ids(
                        self.model,
                        self._tokenizer,
                        [prompts[i] for i in places],
                        max_new_tokens=max_new_tokens,
                        batch_size=self._batch_size,
                        ends=self._ends,
                        beginning=self._beginning,
                    )
                yield places, said

        return [[int(token) for token in said] for said in self.recalled(f"answer {max_new_tokens}", prompts, find)]

    def first_tokens(self, prompts: Sequence[list[int]], progress: str) -> list[int]:
        """With which token its answer to each prompt begins, from one forward pass."""

        def likeliest(inputs: dict[str, Any], last: Tensor) -> list[list[int]]:
            positions, of_rows = last.unique(return_inverse=True)  # type: ignore[no-untyped-call]
            logits = logits_at(self.model, inputs, positions)
            tokens: list[list[int]] = logits[torch.arange(len(last), device=last.device), of_rows].argmax(-1, True).tolist()
            return tokens

        def find(new: Places) -> Found:
            for places, tokens in self._forward([prompts[i] for i in new], likeliest, progress):
                yield [new[i] for i in places], tokens

        return [int(token) for (token,) in self.recalled("first token", prompts, find)]

    def log_likelihoods(
        self, prompts: Sequence[list[int]], answers: Sequence[list[int]], progress: str
    ) -> list[list[float]]:
        """Of each token of the answers, in nats."""
        texts = [[*prompt, _BEFORE_ANSWER, *answer] for prompt, answer in zip(prompts, answers, strict=True)]

        def find(new: Places) -> Found:
            for places in self._batches([texts[i] for i in new], new, progress):
                asked = [prompts[i] for i in places], [answers[i] for i in places]
                with self._precision.forward_context(), casting_once():
                    likely = answer_log_likelihoods(
                        self.model, *asked, batch_size=self._batch_size, beginning=self._beginning
                    )
                yield places, [of_row.tolist() for of_row in likely]

        return self.recalled("log-likelihood", texts, find)

    def states(self, prompts: Sequence[list[int]], progress: str) -> Iterator[tuple[list[int], Tensor]]:
        """Each layer's output at the last token of each prompt: places of prompts, and (prompts, layers, width), float64."""

        def at_last(inputs: dict[str, Any], last: Tensor) -> Tensor:
            layers = self.model(**inputs, output_hidden_states=True).hidden_states[1:]
            rows = torch.arange(len(last), device=last.device)
            return torch.stack([layer[rows, last] for layer in layers], dim=1).double().cpu()

        return self._forward(prompts, at_last, progress)

    def training_batches(self, examples: Sequence[Example], progress: str) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Places of rows, and the rows as training puts them, those of like length together."""
        collate = AnswerOnlyCollator(cast(int, self._tokenizer.pad_token_id))
        texts, batch_size = [example.input_ids for example in examples], max(1, self._batch_size // _TRAINED_SHARE)
        for places in self._batches(texts, range(len(examples)), progress, batch_size):
            yield places, collate([examples[i] for i in places])

    def computing(self) -> AbstractContextManager[None]:
        """The run's precision, for what is asked of :attr:`model` itself."""
        return self._precision.forward_context()

    def _forward(
        self, prompts: Sequence[list[int]], run: Callable[[dict[str, Any], Tensor], T], progress: str
    ) -> Iterator[tuple[list[int], T]]:
        """Places of prompts, and what ``run`` makes of them, by the arguments of :class:`SharedBeginning`."""
        require_known(prompts, self.model.config.get_text_config().vocab_size, "prompts")
        for places in self._batches(prompts, range(len(prompts)), progress):
            with undisturbed(self.model), self._precision.forward_context(), casting_once():
                found = run(*self._beginning.inputs([prompts[i] for i in places]))
            yield places, found

    def _batches(
        self, texts: Sequence[list[int]], places: Places, progress: str, batch_size: int | None = None
    ) -> Iterator[list[int]]:
        """The places of texts, those of like length together."""
        batches = batches_by_length(texts, batch_size or self._batch_size)
        for batch in tqdm(batches, desc=progress, unit="batch", leave=False):
            yield [places[i] for i in batch]

    def prompt_ids(self, prompt: str) -> list[int]:
        """A user's prompt, nothing before it, in token ids."""
        return self._template.prompt_ids(self._tokenizer, prompt)

    def text(self, ids: Sequence[int]) -> str:
        """What token ids read as, without special tokens and blanks around it."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def is_refusal(self, ids: Sequence[int]) -> bool:
        """Whether an answer refuses."""
        return self._judge.is_refusal(self.text(ids))

    def may_become_refusal(self, ids: Sequence[int]) -> bool:
        """Whether an answer that begins with these may open as a refusal does."""
        return self._judge.may_become_refusal(self.text(ids))
