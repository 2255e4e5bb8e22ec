"""Scoring: answers a second, beside one prompt at a time; and whether the texts are the same."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from figures import Figure, paired

from asft_lightning import Pretrained, Template, generate_answers

_PROMPTS, _TOKENS = 64, 24


def measure(repeats: int, device: str, model: str, rows: Path) -> Iterator[Figure]:
    """Greedy answers of 24 tokens to 64 prompts of varied length."""
    pretrained, template = Pretrained(model, dtype="float32" if device == "cpu" else "bfloat16"), Template()
    loaded, tokenizer = pretrained.load_model().to(device), pretrained.load_tokenizer()
    prompts = [row["input"] for row in json.loads(rows.read_text())[:_PROMPTS]]
    ids = [template.prompt_ids(tokenizer, f"{prompt}\n\nWhat is this about?") for prompt in prompts]
    answers: dict[int, list[str]] = {}

    def answer(batch_size: int) -> None:
        answers[batch_size] = generate_answers(loaded, tokenizer, ids, max_new_tokens=_TOKENS, batch_size=batch_size)

    with torch.no_grad():
        times = paired(lambda: answer(32), lambda: answer(1), max(1, repeats // 2), warm_up=0)
    same = sum(ours == alone for ours, alone in zip(answers[32], answers[1], strict=True))
    yield Figure(
        "generation", f"{_PROMPTS} prompts, batch 32", "one at a time", *times, {"same texts": f"{same} of {_PROMPTS}"}
    )
