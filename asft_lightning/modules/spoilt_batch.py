"""The error for a batch whose loss is no number, with its rows in a file of the run's folder."""

import json
from collections.abc import Mapping

from lightning.pytorch import Trainer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asft_lightning.errors import TrainingError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.files import write_atomically


def spoilt_batch(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    batch: Mapping[str, Tensor],
    parts: Mapping[str, Tensor | None] | None,
) -> TrainingError:
    """The error to raise, after the rows are written.

    Args:
        trainer: Of the run.
        tokenizer: The model's.
        batch: The rows.
        parts: Of the loss, by name; None where it is another rank's that is no number, and nothing is written here.
    """
    step, folder = trainer.global_step, trainer.default_root_dir
    if parts is None:
        return TrainingError(
            f"the loss must be a finite number on every rank, and at step {step} it is not on another one. "
            f"Its rows are in that rank's spoilt-batch file in {folder}; read its message."
        )
    file = RunFolder.of(trainer).spoilt_batch(trainer.global_rank)
    lines = tokenizer.batch_decode(batch["input_ids"])
    write_atomically(file, "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines))
    values = ", ".join(f"{name} {float(value.detach())}" for name, value in parts.items() if value is not None)
    return TrainingError(
        f"the loss must be a finite number, and at step {step} it is not ({values}). Its rows are in "
        f"{file}; the weights are those of the step before, and no adapter was written. Lower the learning rate, use "
        "bf16 instead of fp16, or mend the rows; then go on from the last checkpoint."
    )
