"""Building one sandbox: rows, tokenizer, the trained pair, all written into one folder."""

import copy
import json
import random
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from asft_lightning.sandbox.language import Row
from asft_lightning.sandbox.pair import encode_pool, isolated, make_model, train_stage
from asft_lightning.sandbox.recipe import Recipe
from asft_lightning.sandbox.rows import make_corpus
from asft_lightning.sandbox.tokenizer import make_tokenizer


def write_sandbox(folder: Path, recipe: Recipe, seed: int) -> None:
    """Draw the rows, train the pair, and write every part below an existing empty folder.

    Args:
        folder: Where the parts go.
        recipe: Sizes and training.
        seed: Decides the rows and the weights.
    """
    corpus = make_corpus(recipe, seed)
    tokenizer = make_tokenizer()
    base, aligned = train_pair(corpus.pools, tokenizer, recipe, seed)
    for name, rows in corpus.files.items():
        write_rows(folder / f"{name}.jsonl", rows)
    for name, model in {"base": base, "aligned": aligned}.items():
        save_model(model, tokenizer, folder / name)


def train_pair(
    pools: dict[str, list[Row]], tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Train the base model from random weights, and the aligned model from the base model.

    Returns:
        Base model and aligned model, in eval mode.
    """
    rng = random.Random(seed)
    with isolated(seed), tqdm(total=recipe.base.steps + recipe.aligned.steps, desc="Building the sandbox") as bar:
        encoded = {name: encode_pool(rows, tokenizer, recipe.system_share, rng) for name, rows in pools.items()}
        base = make_model(recipe, tokenizer)
        train_stage(base, encoded, recipe.base, rng, bar)
        aligned = copy.deepcopy(base)
        train_stage(aligned, encoded, recipe.aligned, rng, bar)
    return base, aligned


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model with its tokenizer for `from_pretrained`, without a progress bar of its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.device("cpu"):
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
