"""Training the aligned/base pair of a sandbox."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from asft_lightning.functional import IGNORE_INDEX
from asft_lightning.sandbox.language import SYSTEM_PROMPT, Line
from asft_lightning.sandbox.recipe import Recipe, Stage
from asft_lightning.sandbox.tokenizer import ASSISTANT

Pool = list[tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a block on one CPU thread in float32 with gradients on and a seeded generator; put all that back after.

    A sandbox may be built from within Lightning hooks, where a default device, autocast or inference mode may be on.
    One thread gives the same weights on any number of cores. At this size two are hardly faster, and ten times slower
    where another process keeps one of the cores busy.
    """
    threads = torch.get_num_threads()
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        # torch.manual_seed would seed the accelerators too, which fork_rng(devices=[]) does not put back.
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A Llama with random float32 weights for the tokenizer's vocabulary."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def encode_pool(rows: list[Line], tokenizer: PreTrainedTokenizerFast, system_share: float, rng: random.Random) -> Pool:
    """Render rows as chats, some with a system message.

    Returns:
        For each row its token ids, and its labels (the ids with the prompt ignored), both (tokens,) int64.
    """
    system = [{"role": "system", "content": SYSTEM_PROMPT}]
    chats = [
        (system if rng.random() < system_share else [])
        + [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        for row in rows
    ]
    texts = tokenizer.apply_chat_template(chats, tokenize=False)
    answer = tokenizer.convert_tokens_to_ids(ASSISTANT)
    pool = []
    for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        start = tokens.index(answer) + 1
        pool.append((torch.tensor(tokens), torch.tensor([IGNORE_INDEX] * start + tokens[start:])))
    return pool


def train_stage(model: PreTrainedModel, pools: dict[str, Pool], stage: Stage, rng: random.Random, bar: "tqdm[None]") -> None:
    """Train all weights of the model in place, with the next-token loss over the answers.

    Args:
        model: A causal language model.
        pools: {pool: token ids and labels of its chats}.
        stage: Steps, learning rate and shares of the pools.
        rng: Draws the batches.
        bar: Moved on by one a step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / stage.warmup, total_iters=stage.warmup)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, stage.steps - stage.warmup))
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [stage.warmup])
    names, weights = zip(*stage.shares.items(), strict=True)
    model.train()
    for _ in range(stage.steps):
        chats = [rng.choice(pools[name]) for name in rng.choices(names, weights, k=stage.batch_size)]
        # Padding stands on the right, where causal attention never looks back at it: no mask is needed.
        loss = model(
            input_ids=pad_sequence([ids for ids, _ in chats], batch_first=True, padding_value=model.config.pad_token_id),
            labels=pad_sequence([labels for _, labels in chats], batch_first=True, padding_value=IGNORE_INDEX),
            use_cache=False,
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        bar.update()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    model.eval()
