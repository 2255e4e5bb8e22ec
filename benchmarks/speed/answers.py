"""A training step that holds answers: what one or two of them add to it, and to one whose gradients are projected."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from figures import Figure, paired
from torch import Tensor

from asft_lightning import Answers, AsFT, MixtureDataModule, Pretrained, Source
from asft_lightning.functional import without_conflict
from asft_lightning.modules.ready_batch import ready
from asft_lightning.runtime.gradients import gradient_vector, set_gradient

_BATCH, _BATCHES, _PROMPTS = 8, 4, 16


def measure(repeats: int, device: str, model: str, rows: Path, prompts: Path) -> Iterator[Figure]:
    """Steps on the same batches of real rows, with and without answers, in turns."""
    pretrained = Pretrained(model, dtype="float32" if device == "cpu" else "bfloat16")
    settings = Answers(Source(str(prompts), prompt="{goal}", answer="{target}"), num_prompts=_PROMPTS)
    module = AsFT(pretrained, anchors=[], answers=settings)
    module.configure_model()
    kept = module.build_answers(settings)
    batches = _batches(pretrained, rows, device)
    tokens = sum(batch["input_ids"].numel() for batch in batches) / len(batches)
    for count, conflict in ((1, "add"), (2, "add"), (1, "project")):
        module.answers = replace(settings, rows_per_step=count)
        module.bind_answers(kept)
        module.to(device).train()
        yield _figure(module, batches, conflict, repeats, f"{count} of {kept.lengths.float().mean():.0f} tokens", tokens)


def _batches(pretrained: Pretrained, rows: Path, device: str) -> list[Mapping[str, Tensor]]:
    source = Source(str(rows), prompt="{instruction}\n\n{input}")
    data = MixtureDataModule(pretrained, source, num_rows=_BATCH * _BATCHES, poison_ratio=0.0, batch_size=_BATCH, seed=0)
    data.setup()
    given = [ready(batch) for batch in data.train_dataloader()]  # as a training step has them
    return [{name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()} for batch in given]


def _figure(
    module: AsFT, batches: list[Mapping[str, Tensor]], conflict: str, repeats: int, answers: str, tokens: float
) -> Figure:
    trained = module.trainable_parameters()
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    turns = {True: 0, False: 0}

    def divergence(step: int) -> Tensor:
        assert module.answer_penalty is not None
        value: Tensor = 3.0 * module.answer_penalty(module.model, step)
        return value

    def step(held: bool) -> None:
        turns[held] += 1
        task_loss = module.task_loss(batches[turns[held] % len(batches)])
        if not held:
            task_loss.backward()
        elif conflict == "add":
            (task_loss + divergence(turns[held])).backward()
        else:
            task_loss.backward()
            task = gradient_vector(trained)
            optimizer.zero_grad()
            divergence(turns[held]).backward()
            set_gradient(trained, without_conflict(task, gradient_vector(trained))[0])
        optimizer.step()
        optimizer.zero_grad()

    held, plain = paired(lambda: step(True), lambda: step(False), 3 * repeats)
    notes = {"overhead in turns": f"{held / plain - 1:+.1%}"}
    what = f"answers held ({conflict}), {answers} a step; {_BATCH} AG News rows, {tokens:.0f} tokens"
    return Figure("training", what, "SFT step", held, plain, notes)
