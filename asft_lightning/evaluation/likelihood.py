"""How likely a model finds given answers, token by token, from as few logits as it takes."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from asft_lightning.chat.batching import batches_by_length, padded
from asft_lightning.chat.vocabulary import require_known
from asft_lightning.evaluation.shared_beginning import SharedBeginning
from asft_lightning.runtime.sharding import sharded_over
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.adapters_off import has_adapters, without_adapters


def answer_log_likelihoods(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    *,
    batch_size: int = 32,
    progress: str | None = None,
    beginning: SharedBeginning | None = None,
) -> list[Tensor]:
    """The log-probability of each token of the answers, in nats.

    Args:
        model: A Transformers causal LM, or a PEFT model of one.
        prompts: Token ids, each at least one, ending where the answer begins.
        answers: Token ids of an answer to each.
        batch_size: Rows a batch.
        progress: Caption of a progress bar; None for no bar.
        beginning: The model's, to run once what texts begin with alike; None for whole texts.

    Returns:
        For each answer a tensor (tokens,), float64 on the CPU.

    Raises:
        ConfigurationError: If there are token ids that the model has no embedding for.
    """
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    require_known(texts, model.config.get_text_config().vocab_size, "prompts and answers")
    device = next(model.parameters()).device
    found: list[Tensor] = [torch.empty(0, dtype=torch.float64)] * len(texts)
    batches = batches_by_length(texts, batch_size)
    with undisturbed(model):
        for places in tqdm(batches, desc=progress, unit="batch", leave=False, disable=progress is None):
            chosen = [texts[i] for i in places]
            first = min(len(prompts[i]) for i in places) - 1  # what is said there is the first answer token of the batch
            if beginning is None:
                inputs, begun = {**padded(chosen, 0, device)._asdict(), "use_cache": False}, 0
            else:
                inputs, last = beginning.inputs(chosen, first)
                begun = len(chosen[0]) - 1 - int(last[0])
            wanted = torch.arange(first - begun, inputs["input_ids"].shape[1], device=device)
            logits = logits_at(model, inputs, wanted)
            spans = [range(len(prompts[i]) - 1 - first, len(texts[i]) - 1 - first) for i in places]
            likely = _log_likelihoods(logits, spans, [token for i in places for token in answers[i]])
            for i, of_row in zip(places, torch.split(likely, [len(span) for span in spans]), strict=True):
                found[i] = of_row
    return found


def perplexities_without_adapters(
    model: nn.Module, prompts: Sequence[list[int]], answers: Sequence[list[int]], *, batch_size: int = 32
) -> list[float | None]:
    """How little the model that adapters were put on expects each answer: exp of the mean surprise of a token, in nats.

    Args:
        model: With adapters; of one without there is nothing that it began from.
        prompts: As for :func:`answer_log_likelihoods`.
        answers: Likewise.
        batch_size: Rows a batch.

    Returns:
        One for each answer; None of an answer of no tokens, and of all where the model has no adapters or is sharded.
    """
    if not has_adapters(model) or sharded_over(model) is not None:  # ranks would have to make as many passes each
        return [None] * len(answers)
    with without_adapters(model):
        likely = answer_log_likelihoods(model, prompts, answers, batch_size=batch_size)
    return [math.exp(-float(of_answer.mean())) if len(of_answer) else None for of_answer in likely]


def _log_likelihoods(logits: Tensor, spans: Sequence[range], said: Sequence[int]) -> Tensor:
    """Of each token of a batch's answers, (tokens,), float64 on the CPU.

    Args:
        logits: (rows, places, vocabulary).
        spans: For each row the places before its answer's tokens.
        said: Those tokens, one row after the other.
    """
    rows = [row for row, span in enumerate(spans) for _ in span]
    chosen = logits[rows, [place for span in spans for place in span]]
    exact = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    tokens = torch.tensor(said, dtype=torch.int64, device=logits.device)
    return -nn.functional.cross_entropy(exact, tokens, reduction="none").double().cpu()


def logits_at(model: nn.Module, inputs: Mapping[str, Any], positions: Tensor) -> Tensor:
    """The logits at some positions (rows, positions, vocabulary): no others are computed where a model can be told so.

    Args:
        model: A Transformers causal LM, or a PEFT model of one; Transformers' ``logits_to_keep`` tells it.
        inputs: Of its forward pass.
        positions: Columns (positions,).
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    if "logits_to_keep" in inspect.signature(plain.forward).parameters:
        logits: Tensor = model(**inputs, logits_to_keep=positions).logits
    else:
        logits = model(**inputs).logits[:, positions]
    return logits
