"""A training step: what the penalty adds to it; and rows per second, beside padding to 512 and transformers.Trainer."""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from figures import Figure, paired
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from peft import LoraConfig, get_peft_model
from synthetic import direction
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from asft_lightning import (
    Activation,
    AsFT,
    Gram,
    LoRAFineTuner,
    MixtureDataModule,
    Pretrained,
    Probe,
    Source,
    Template,
    UpdatePenalty,
    build_anchors,
)
from asft_lightning.data import AnswerOnlyCollator, Example
from asft_lightning.modules.lora_config import PAPER_LORA

_BATCH, _ROWS, _PADDED, _EPOCH_ROWS = 8, 128, 512, 1000


def measure(repeats: int, device: str, model: str, rows: Path) -> Iterator[Figure]:
    """Overhead of the penalty on one batch; then epochs of real rows, the second of each run, runs in turns."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    pretrained = Pretrained(model, dtype="float32" if device == "cpu" else "bfloat16")
    yield _overhead(pretrained, repeats, device)
    what = f"{_ROWS} AG News rows, batch {_BATCH}"
    figure = _beside_transformers(what, pretrained, lambda: _data(pretrained, rows), max(1, repeats // 2), device)
    yield figure
    padded = _lightning(pretrained, _data(pretrained, rows, padded=True), device)
    rates = _rate(_ROWS, figure.ours_s, padded)
    yield Figure("training", what, f"ours, but padded to {_PADDED}", figure.ours_s, padded, rates)
    small = Pretrained("sandbox:aligned")
    yield _beside_transformers("300 rows of the sandbox, batch 1", small, lambda: _small_data(small), 2 * repeats, device)


def _beside_transformers(
    what: str, pretrained: Pretrained, data: Callable[[], MixtureDataModule], repeats: int, device: str
) -> Figure:
    """The second epochs of both trainers, runs in turns."""
    runs = [(_lightning(pretrained, data(), device), _transformers(pretrained, data(), device)) for _ in range(repeats)]
    ours, theirs = (median(times) for times in zip(*runs, strict=True))
    rates = _rate(data().num_rows or 0, ours, theirs)
    return Figure("training", what, "transformers.Trainer + PEFT, group_by_length", ours, theirs, rates)


def activation(repeats: int, device: str, model: str, rows: Path) -> Iterator[Figure]:
    """What the Activation anchor and a drift budget take; the prompts are news, longer than unsafe ones are."""
    pretrained = Pretrained(model, dtype="float32" if device == "cpu" else "bfloat16")
    anchor = Activation(prompts=Source(str(rows), prompt="{instruction}\n\n{input}"))
    weighed = _module(pretrained, anchors=[anchor])
    assert weighed.model is not None
    probe = Probe(pretrained.load_model, weighed.tokenizer, weighed.template, device)
    start = time.perf_counter()
    anchors = build_anchors(weighed.model, model, anchors=[anchor], probe=probe, progress=False)
    built = time.perf_counter() - start
    weighed.bind(anchors)
    figure = _steps(weighed, "AsFT step, Activation", weighed.penalty, repeats, device)
    yield figure
    epoch = figure.rival_s * _EPOCH_ROWS / _BATCH
    notes = {"matrices": len(anchors.shapes), "share of the epoch": f"{built / epoch:.1%}"}
    yield Figure(
        "build", f"Activation, {anchor.num_prompts} prompts", f"an SFT epoch of {_EPOCH_ROWS} rows", built, epoch, notes
    )
    limited = _module(pretrained, anchors=[anchor], drift_budget=1e-9)  # so tight that every step has to be taken back
    limited.bind(anchors)
    yield _steps(limited, "AsFT step, drift budget", None, repeats, device)


def _rate(rows: int, ours: float, rival: float) -> dict[str, object]:
    return {"rows a second": f"{rows / ours:.2f} / {rows / rival:.2f}"}


def _overhead(pretrained: Pretrained, repeats: int, device: str) -> Figure:
    """The same batch with and without the penalty, in turns; and the penalty by itself, which noise cannot hide."""
    module = _module(pretrained)
    assert module.model is not None
    aligned = {name: value.float() for name, value in module.model.get_base_model().state_dict().items() if value.ndim == 2}
    base = {name: value - direction((value.shape[0], value.shape[1])) for name, value in aligned.items() if "_proj" in name}
    module.bind(build_anchors(module.model, aligned, base, [Gram()], progress=False))
    return _steps(module, "AsFT step", module.penalty, repeats, device)


def _module(pretrained: Pretrained, **settings: Any) -> AsFT:
    module = AsFT(pretrained, **settings)
    module.configure_model()
    return module


def _steps(module: AsFT, what: str, penalty: UpdatePenalty | None, repeats: int, device: str) -> Figure:
    """Steps with and without protection in turns, and what protects by itself."""
    module.to(device).train()
    ids = torch.randint(5, 1000, (_BATCH, 128), generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.where(torch.arange(128, device=device) < 120, -100, ids)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    optimizer = torch.optim.AdamW(module.trainable_parameters(), lr=1e-6)

    def protect() -> None:
        if penalty is not None:
            penalty().backward()
        elif module.budget is not None:
            module.budget.hold()

    def step(protected: bool) -> None:
        extra = penalty() if protected and penalty is not None else 0.0
        (extra + module.task_loss(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if protected and module.budget is not None:
            module.budget.hold()

    protected, plain = paired(lambda: step(True), lambda: step(False), 3 * repeats)
    alone, _ = paired(protect, lambda: None, 3 * repeats)
    notes = {"overhead in turns": f"{protected / plain - 1:+.1%}", "protection alone": f"{alone / plain:.2%} of a step"}
    return Figure("training", f"{what}, {_BATCH} × 128 tokens", "SFT step", protected, plain, notes)


class _PaddedCollator(AnswerOnlyCollator):
    """As the authors' scripts: every row as long as the longest that may come."""

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        fill = {"input_ids": self.pad_token_id, "attention_mask": 0, "labels": -100}
        batch = super().__call__(examples)
        return {key: torch.nn.functional.pad(v, (0, _PADDED - v.shape[1]), value=fill[key]) for key, v in batch.items()}


class _Padded(MixtureDataModule):
    def _loader(self, examples: list[Example], shuffle: bool) -> DataLoader[Example]:
        loader = super()._loader(examples, shuffle)
        loader.collate_fn = _PaddedCollator(loader.collate_fn.pad_token_id)
        return loader


def _data(pretrained: Pretrained, rows: Path, padded: bool = False) -> MixtureDataModule:
    source = Source(str(rows), prompt="{instruction}\n\n{input}")
    settings = {"num_rows": _ROWS, "poison_ratio": 0.0, "batch_size": _BATCH, "group_by_length": not padded, "seed": 0}
    return (_Padded if padded else MixtureDataModule)(pretrained, source, template=Template(max_length=_PADDED), **settings)


def _small_data(pretrained: Pretrained) -> MixtureDataModule:
    """One row a step, of a model so small that only what is done around it counts."""
    source = Source("sandbox:benign")
    return MixtureDataModule(pretrained, source, num_rows=300, poison_ratio=0.0, batch_size=1, group_by_length=True, seed=0)


class _LightningEpochs(Callback):
    """The time of the last epoch."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start


class _TransformersEpochs(TrainerCallback):
    """The same, for the other trainer."""

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        self.seconds = time.perf_counter() - self.start


def _lightning(pretrained: Pretrained, data: MixtureDataModule, device: str) -> float:
    epochs = _LightningEpochs()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:  # a run writes what it read there
        where = {"default_root_dir": folder, "accelerator": device, "devices": 1}
        trainer = LightningTrainer(max_epochs=2, callbacks=[epochs], **where, **quiet)
        trainer.fit(LoRAFineTuner(pretrained), data)
    return epochs.seconds


def _transformers(pretrained: Pretrained, data: MixtureDataModule, device: str) -> float:
    data.setup()
    assert data.tokenizer is not None
    rows = [{"input_ids": e.input_ids, "labels": e.labels} for e in data.mixture.train]
    epochs = _TransformersEpochs()
    model = get_peft_model(pretrained.load_model(), LoraConfig(task_type="CAUSAL_LM", **PAPER_LORA))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=2,
            per_device_train_batch_size=data.batch_size,
            train_sampling_strategy="group_by_length",
            use_cpu=device == "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        collate = DataCollatorForSeq2Seq(data.tokenizer, label_pad_token_id=-100)
        Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[epochs]).train()
    return epochs.seconds
