"""How likely a model finds given answers, token by token, from as few logits as it takes."""

import inspect
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from asft_lightning.chat.batching import batches_by_length, padded
from asft_lightning.chat.vocabulary import require_known
from asft_lightning.runtime.undisturbed import undisturbed


def answer_log_likelihoods(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    *,
    batch_size: int = 32,
    progress: str | None = None,
) -> list[Tensor]:
    """The log-probability of each token of the answers, in nats.

    Args:
        model: A Transformers causal LM, or a PEFT model of one.
        prompts: Token ids, each at least one, ending where the answer begins.
        answers: Token ids of an answer to each.
        batch_size: Rows a batch.
        progress: Caption of a progress bar; None for no bar.

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
            batch = padded([texts[i] for i in places], 0, device)
            first = min(len(prompts[i]) for i in places) - 1  # what is said there is the first answer token of the batch
            inputs = {**batch._asdict(), "use_cache": False}
            if keeps_logits(model):
                positions = torch.arange(first, batch.input_ids.shape[1], device=device)
                logits = model(**inputs, logits_to_keep=positions).logits
            else:
                logits = model(**inputs).logits[:, first:]
            for line, i in enumerate(places):
                begin, end = len(prompts[i]) - 1 - first, len(texts[i]) - 1 - first
                said = torch.tensor(answers[i], dtype=torch.int64, device=device)
                of_row = logits[line, begin:end]
                chances = of_row.to(torch.promote_types(of_row.dtype, torch.float32)).log_softmax(-1)
                found[i] = chances.gather(-1, said[:, None]).squeeze(-1).double().cpu()
    return found


def keeps_logits(model: nn.Module) -> bool:
    """Whether a model's forward can be told where logits are wanted: Transformers' ``logits_to_keep``."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(plain.forward).parameters
