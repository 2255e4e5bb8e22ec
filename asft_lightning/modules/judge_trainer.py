"""JudgeTrainer: a classifier of several labels an answer, on any Transformers model, to be a judge."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from peft import LoraConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor
from transformers import PreTrainedModel

from asft_lightning.chat.batching import padded
from asft_lightning.data import LabelledDataModule, LabelledRow
from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.evaluation.judges.judged_text import DEFAULT_TEXT, JudgedText, JudgePreset
from asft_lightning.metrics import MultiLabelScores
from asft_lightning.modules.classifier_outputs import ClassifierReader
from asft_lightning.modules.decay import Decay
from asft_lightning.modules.lora_config import lora_config
from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.modules.multi_label_loss import Contrastive, MultiLabelLoss
from asft_lightning.runtime.ending import end_where_told
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.runtime.precision import to_its_own_precision
from asft_lightning.weights.merging import merge
from asft_lightning.weights.pretrained import Pretrained


class JudgeTrainer(LoRAFineTuner):
    """Train a judge: an encoder or a causal LM with a new head, which gives an answer several labels or none.

    Its data is a :class:`LabelledDataModule`. After each validation the thresholds are those with the highest F1 on the
    held-out rows; a test is at these. :class:`JudgeCheckpoint` writes a folder that :class:`ClassifierJudge` takes as it is.

    Args:
        pretrained: The model to begin with is ``aligned``; ``base`` is not needed.
        labels: Names of the labels; null for the data's.
        text: How prompt and answer are written, as for :class:`ClassifierJudge`.
        max_length: Longest text in tokens.
        contrastive: Loss beside BCE: ``SCL``, ``ICL``, ``JSCL``, ``JSPCL`` or ``SLCL`` (arXiv 2212.00552); null for none.
        alpha: Its share.
        temperature: Its T.
        class_weights: ``balanced``: in BCE a label that is there counts as much more as it is rarer, up to 10; or a number
            for each label; null for none.
        lora: A ``peft.LoraConfig``, or its arguments as a mapping, beside which the head is trained; null for all weights.
        optimizer: As of :class:`LoRAFineTuner`.
        lr_scheduler: As of :class:`LoRAFineTuner`.

    Raises:
        ConfigurationError: If a setting cannot be used.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        labels: list[str] | None = None,
        text: str = DEFAULT_TEXT,
        max_length: int = 512,
        contrastive: Contrastive | None = None,
        alpha: float = 0.01,
        temperature: float = 1.0,
        class_weights: list[float] | Literal["balanced"] | None = None,
        lora: PlainData | LoraConfig | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=2e-4, weight_decay=0.0),
        lr_scheduler: Decay | LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(pretrained, lora=_for_classifier(lora), optimizer=optimizer, lr_scheduler=lr_scheduler)
        self.labels = labels
        self.text = JudgedText(text, max_length)
        self.is_whole = lora is None
        self.class_weights = class_weights
        weights = class_weights if isinstance(class_weights, list) else None
        self.loss = MultiLabelLoss(contrastive, alpha, temperature, weights)
        self.thresholds: Tensor
        self.register_buffer("thresholds", torch.empty(0))
        self._reader: ClassifierReader | None = None
        self._scores: MultiLabelScores | None = None

    @property
    def names(self) -> Sequence[str]:
        """Of the labels.

        Raises:
            DataError: If neither the settings nor the data say them.
        """
        if self.labels is None:
            self.labels = self._data().labels
        return self.labels

    def _data(self) -> LabelledDataModule:
        data = getattr(self._trainer, "datamodule", None)
        if not isinstance(data, LabelledDataModule):
            raise DataError(f"a judge learns from a LabelledDataModule, got {type(data).__name__}. Set data to one.")
        return data

    def configure_model(self) -> None:
        """Load the model with its new head, and put the adapter on it if there is one; once, whatever calls it again."""
        if self.model is not None:
            return
        if self.device_mesh is not None:
            raise ConfigurationError("a judge is not sharded, got a strategy that shards. Set trainer.strategy to ddp.")
        if isinstance(self.class_weights, list) and len(self.class_weights) != len(self.names):
            raise ConfigurationError(
                f"class_weights must have one for each of the {len(self.names)} labels, got {len(self.class_weights)}."
            )
        model = self.pretrained.load_classifier(self.names)
        model.config.use_cache = False
        # A causal classifier reads its labels at the last token that is no padding, and must know which that is.
        model.config.pad_token_id = model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model = cast(PeftModel, model) if self.is_whole else self.with_adapter(model)
        self._reader = ClassifierReader(self.model, len(self.names))
        self.thresholds = torch.full((len(self.names),), 0.5)
        self._scores = MultiLabelScores(self.names)

    def with_adapter(self, model: PreTrainedModel) -> PeftModel:
        """``model`` with a new adapter in its body, and all of its head trained beside it."""
        if self.lora.modules_to_save is None:
            tops = [name for name, part in model.named_children() if [*part.parameters()]]
            above = [name for name in tops if name != model.base_model_prefix]
            # Of an encoder that was trained without one, the pooler is as new as the head.
            poolers = ["pooler"] if any(name.endswith(".pooler") for name, _ in model.named_modules()) else []
            self.lora.modules_to_save = above + poolers
        adapted = super().with_adapter(model)
        for part in adapted.modules():
            if isinstance(part, ModulesToSaveWrapper):
                part.modules_to_save["default"].register_forward_pre_hook(to_its_own_precision)
        return adapted

    def on_fit_start(self) -> None:
        """Weigh labels by how rare they are, where that is asked for; and a row without room shows now, not on the way."""
        data = self._data()
        if list(data.labels) != list(self.names):
            raise DataError(f"labels must be the data's, in order, got {self.names} and {data.labels}. Leave them out.")
        for row in (row for rows in data.rows.values() for row in rows):
            self._ids(row)
        if self.class_weights == "balanced":
            shares = torch.tensor(data.shares())
            self.loss.positive_weights = ((1 - shares) / shares.clamp_min(1e-9)).clamp(1, 10).to(self.device)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Rows as token ids and labels."""
        rows = cast(list[LabelledRow], batch)
        inputs = padded([self._ids(row) for row in rows], int(self.tokenizer.pad_token_id), torch.device("cpu"))
        return inputs._asdict() | {"labels": torch.tensor([row.labels for row in rows], dtype=torch.float32)}

    def task_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """BCE, and the contrastive loss if there is one, a scalar."""
        assert self._reader is not None
        outputs = self._reader(batch["input_ids"], batch["attention_mask"])
        loss: Tensor = self.loss(outputs, batch["labels"])
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Loss and probabilities of the held-out rows."""
        self._score(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the scores at 0.5, by which runs are compared, and choose the thresholds."""
        assert self._scores is not None
        if not self.trainer.sanity_checking:
            self.thresholds = self._scores.thresholds().to(self.device)
            self._log_scores("val", None)
        self._scores.reset()

    def test_step(self, batch: Mapping[str, Tensor] | None, batch_idx: int) -> None:
        """Loss and probabilities of the rows to test on."""
        if batch is not None:
            self._score(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log the scores at the thresholds."""
        assert self._scores is not None
        self._log_scores("test", self.thresholds)
        self._scores.reset()

    def save_judge(self, folder: Path) -> None:
        """Write the model, with the update merged in, and the tokenizer, as Transformers has them."""
        assert self.model is not None
        model = cast(Any, copy.deepcopy(self.model).cpu())  # merging is for good, and the run may go on
        plain: PreTrainedModel = model if self.is_whole else merge(model)[0]
        chosen = dict(zip(self.names, self.thresholds.tolist(), strict=True))
        JudgePreset(self.text.text, self.text.max_length, chosen).put_into(plain.config)
        plain.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _ids(self, row: LabelledRow) -> list[int]:
        ids = self.text.ids(self.tokenizer, row.prompt, row.answer)
        if ids is None:
            raise DataError(
                f"a prompt must leave room for its answer within max_length ({self.text.longest(self.tokenizer)} tokens), "
                f"and {row.prompt!r:.60} does not. Raise model.max_length, or remove the row."
            )
        return ids

    def _score(self, batch: Mapping[str, Tensor], stage: str) -> None:
        end_where_told(self._trainer)
        assert self._reader is not None and self._scores is not None
        outputs = self._reader(batch["input_ids"], batch["attention_mask"])
        loss = self.loss(outputs, batch["labels"])
        self.log(f"{stage}/task_loss", loss, prog_bar=stage == "val", sync_dist=True, batch_size=len(batch["labels"]))
        self._scores.to(self.device).update(outputs.logits.float().sigmoid(), batch["labels"])

    def _log_scores(self, stage: str, thresholds: Tensor | None) -> None:
        assert self._scores is not None
        for name, value in self._scores.compute(thresholds).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "macro_f1", sync_dist=True)


def _for_classifier(lora: PlainData | LoraConfig | None) -> LoraConfig | None:
    """LoRA's settings with a head that is trained beside it."""
    if lora is None or isinstance(lora, LoraConfig):
        return lora
    return lora_config({"task_type": "SEQ_CLS", **lora})
