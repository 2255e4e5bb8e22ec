"""Batched answers, without a trace in the training that goes on around them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.chat.batching import batches_by_length, padded
from asft_lightning.chat.rows import trimmed
from asft_lightning.chat.template import Template
from asft_lightning.chat.vocabulary import require_known
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation.shared_beginning import SharedBeginning
from asft_lightning.runtime.sharding import sharded_over
from asft_lightning.runtime.undisturbed import undisturbed


def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int] | str],
    *,
    template: Template = Template(),  # noqa: B008 (frozen)
    max_new_tokens: int = 64,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    opening: str = "",
    ends: Collection[int] = (),
    progress: str | None = None,
    before_batch: Callable[[], object] | None = None,
) -> list[str]:
    """Answers to prompts, in their order.

    Prompts of similar length share a batch, padded on the left, with a KV cache.

    Args:
        model: A Transformers causal LM, or a PEFT model of one.
        tokenizer: Its tokenizer.
        prompts: What a user says, or token ids, each ending where the answer begins.
        template: How prompts that are texts are written, as in training; its end token ends an answer to them.
        max_new_tokens: Longest answer in tokens (the paper takes 512).
        batch_size: Prompts a batch.
        temperature: Of sampling from the model's whole distribution; 0 is greedy.
        seed: Of sampling.
        opening: What the answers begin with, and are given back with; prompts that are token ids end with it.
        ends: Ids of tokens that end an answer, such as a template teaches; the checkpoint's and the tokenizer's do anyway.
        progress: Caption of a progress bar; None for no bar.
        before_batch: Called before each batch; what it raises ends the answering.

    Returns:
        The answers' text, without special tokens and the blanks around it; an indentation stays.

    Raises:
        ConfigurationError: If a prompt has token ids that the model has no embedding for.
    """
    if any(isinstance(prompt, str) for prompt in prompts):
        ends = {*ends, template.end(tokenizer).token_id}
    asked = [template.prompt_ids(tokenizer, p, opening=opening) if isinstance(p, str) else p for p in prompts]
    config = _config(model, tokenizer, max_new_tokens, temperature, ends)
    answer_ids = _generated(model, config, asked, batch_size, seed, progress, before_batch)
    texts = (
        _continuation(tokenizer, prompt, ids) if opening else tokenizer.decode(ids, skip_special_tokens=True)
        for prompt, ids in zip(asked, answer_ids, strict=True)
    )
    return [trimmed(opening + text) for text in texts]


def generate_ids(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    ends: Collection[int] = (),
    progress: str | None = None,
    beginning: SharedBeginning | None = None,
) -> list[list[int]]:
    """Greedy answers as the model's own token ids, up to its end token: what it said, not what its text is read as.

    Args and errors are those of :func:`generate_answers`, and ``beginning`` is the model's, to run once what prompts begin
    with alike; None for whole prompts.
    """
    config = _config(model, tokenizer, max_new_tokens, 0.0, ends)
    return _generated(model, config, prompts, batch_size, 0, progress, beginning=beginning)


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase, ends: Collection[int] = ()) -> list[int]:
    """Ids of all tokens that end an answer: ``ends``, and those that the checkpoint or the tokenizer has, in order.

    Raises:
        ConfigurationError: If the checkpoint's are no token ids.
    """
    known = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    of_model = known if isinstance(known, list) else [] if known is None else [known]
    if not all(isinstance(end, int) for end in of_model):
        raise ConfigurationError(
            f"eos_token_id must be a token id or a list of them, got {known!r:.100} from the model's generation_config.json "
            "or config.json. Get it again."
        )
    all_ends = {*ends, *of_model, tokenizer.eos_token_id}
    return sorted(end for end in all_ends if end is not None)


def _generated(
    model: PreTrainedModel | PeftModel,
    config: GenerationConfig,
    prompts: Sequence[list[int]],
    batch_size: int,
    seed: int,
    progress: str | None,
    before_batch: Callable[[], object] | None = None,
    beginning: SharedBeginning | None = None,
) -> list[list[int]]:
    """What follows each prompt, up to its end token."""
    require_known(
        [*prompts, [int(config.pad_token_id)]], model.config.get_text_config().vocab_size, "prompts and their padding"
    )
    device = next(model.parameters()).device
    batches = batches_by_length(prompts, batch_size)
    mesh = sharded_over(model)
    answers: list[list[int]] = [[] for _ in prompts]
    ends = set(config.eos_token_id)
    bar = tqdm(total=len(prompts), desc=progress, leave=False, disable=progress is None)
    with undisturbed(model), _generating_by(config, model), bar:
        torch.manual_seed(seed)
        for chosen in batches if mesh is None else _as_many_on_every_rank(batches, mesh):
            if before_batch is not None:
                before_batch()
            rows = [prompts[i] for i in chosen] or [[int(config.pad_token_id)]]
            pad = int(config.pad_token_id)
            asked = beginning.prompts(rows, pad) if beginning else padded(rows, pad, device, side="left")._asdict()
            output = model.generate(
                **asked,
                generation_config=config,
                synced_gpus=mesh is not None,  # each rank goes on until the last has finished: the weights are shared
            )
            for i, ids in zip(chosen, output[:, asked["input_ids"].shape[1] :].tolist(), strict=False):
                answers[i] = list(takewhile(lambda token: token not in ends, ids))
            bar.update(len(chosen))
    return answers


def _as_many_on_every_rank(batches: list[list[int]], mesh: DeviceMesh) -> list[list[int]]:
    """Empty batches after the others where another rank has more: sharded weights are gathered by all ranks together."""
    most = torch.tensor(len(batches), device=mesh.device_type)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=mesh.get_group())
    return batches + [[] for _ in range(int(most) - len(batches))]


def _continuation(tokenizer: PreTrainedTokenizerBase, prompt: list[int], ids: list[int]) -> str:
    """The text of ``ids`` with the blank before it that some tokenizers only write inside a text."""
    tail = prompt[-8:]
    before = tokenizer.decode(tail, skip_special_tokens=True)
    return str(tokenizer.decode(tail + ids, skip_special_tokens=True))[len(before) :]


@contextmanager
def _generating_by(config: GenerationConfig, model: nn.Module) -> Iterator[None]:
    """In place of the checkpoint's own: Transformers fills from that what a given configuration leaves open.

    So a repetition penalty, or beams, of a checkpoint's ``generation_config.json`` would change greedy answers.
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    owners = [(owner, owner.generation_config) for owner in (model, plain) if "generation_config" in vars(owner)]
    for owner, _ in owners:
        owner.generation_config = config
    try:
        yield
    finally:
        for owner, original_config in owners:
            owner.generation_config = original_config


def _config(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    temperature: float,
    ends: Collection[int],
) -> GenerationConfig:
    """Greedy or plain sampling, and nothing of what the checkpoint asks for but its end tokens."""
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    )
    return GenerationConfig(
        **sampling,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=end_ids(model, tokenizer, ends),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
