"""Building one sandbox: rows, tokenizer, the trained pair, all written into one folder."""

import copy
import json
import random
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from asft_lightning.runtime.files import whole_folder, write_json
from asft_lightning.sandbox.language import Line
from asft_lightning.sandbox.pair import encode_pool, isolated, make_model, train_stage
from asft_lightning.sandbox.parts import PARTS, file_hashes
from asft_lightning.sandbox.recipe import Recipe
from asft_lightning.sandbox.rows import make_corpus
from asft_lightning.sandbox.tokenizer import make_tokenizer


def build_sandbox(output: Path, seed: int = 0, recipe: Recipe | None = None) -> None:
    """Draw the rows, train the pair, and write every part, whole or not at all.

    The caller's random state, default device and threads stay as they are.

    Args:
        output: The folder to write, with a folder or .jsonl file for each of `PARTS`; it must not be there yet.
        seed: Decides the rows and the weights.
        recipe: Sizes and training of the pair; the shipped pair's if None.

    Raises:
        StorageError: If it cannot be written.
    """
    recipe = recipe or Recipe()
    corpus = make_corpus(recipe, seed)
    tokenizer = make_tokenizer()
    base, aligned = train_pair(corpus.pools, tokenizer, recipe, seed)
    with whole_folder(output) as folder:
        for name, lines in corpus.files.items():
            write_lines(folder / PARTS[name], lines)
        for name, model in {"base": base, "aligned": aligned}.items():
            save_model(model, tokenizer, folder / name)
        write_json(folder / "recipe.json", _record(folder, recipe, seed))


def _record(folder: Path, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What it was made by: weights depend on how a machine's kernels round."""
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    built_with = {**versions, "cpu": torch.backends.cpu.get_cpu_capability()}
    return {"recipe": asdict(recipe), "seed": seed, "built_with": built_with, "sha256": file_hashes(folder)}


def train_pair(
    pools: dict[str, list[Line]], tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
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


def write_lines(path: Path, lines: list[Line]) -> None:
    """Write a file of the sandbox."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


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
