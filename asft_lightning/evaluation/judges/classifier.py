"""ClassifierJudge: a model that gives an answer one label, or several."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from asft_lightning.chat.batching import batches_by_length, padded
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation.judges.judge import Verdict
from asft_lightning.evaluation.judges.judged_text import DEFAULT_TEXT, JudgedText, JudgePreset
from asft_lightning.evaluation.judges.loaded import FEW_BATCHES, Dtype, LazyModel
from asft_lightning.evaluation.settings import check_at_least
from asft_lightning.runtime.undisturbed import undisturbed
from asft_lightning.weights.loading import shown


class Outputs(NamedTuple):
    """How a classifier's outputs are read."""

    labels: list[str]
    unsafe: list[int]
    multi_label: bool
    thresholds: list[float]


class ClassifierJudge:
    """Any sequence classifier of Transformers.

    One that a :class:`JudgeTrainer` saved says in its ``config.json`` how a text is written and from where on an answer has
    a label: its folder is all that is needed. Long texts are cut as :class:`JudgedText` has it.

    Args:
        model: Hub id, directory, or ``sandbox:`` part.
        text: How prompt and answer are written: ``{prompt}``, ``{answer}``, and ``{eos}`` for the tokenizer's end token;
            null for what the checkpoint says, or a blank line between the two.
        labels: Names of the outputs; null for the checkpoint's own.
        unsafe: Labels that mean unsafe; null for all, where an answer may have several labels or none.
        multi_label: Whether an answer may have several labels or none (a sigmoid each) or has exactly one (softmax); null
            for what the checkpoint says, and several where there is one output.
        threshold: Unsafe is what scores more; null for the checkpoint's, one a label, or 0.5.
        max_length: Longest text in tokens, as far as the tokenizer allows it; null for the checkpoint's, or 2048.
        batch_size: Texts a batch.
        revision: Hub revision of ``model``.
        dtype: Of the weights; ``auto`` takes the checkpoint's.
        device: E.g. ``cuda:1`` or ``cpu``; null for the accelerator if there is one, or else the CPU.
    """

    def __init__(
        self,
        model: str,
        text: str | None = None,
        labels: list[str] | None = None,
        unsafe: list[str] | None = None,
        multi_label: bool | None = None,
        threshold: float | None = None,
        max_length: int | None = None,
        batch_size: int = 8,
        revision: str | None = None,
        dtype: Dtype = "auto",
        device: str | None = None,
    ) -> None:
        self._text(text, max_length, JudgePreset())
        check_at_least(1, batch_size=batch_size)
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigurationError(f"a judge's threshold must be a probability, 0 to 1, got {threshold}. 0.5 is usual.")
        self.text = text
        self.labels = labels
        self.unsafe = unsafe
        self.multi_label = multi_label
        self.threshold = threshold
        self.max_length = max_length
        self.batch_size = batch_size
        self._model = LazyModel(AutoModelForSequenceClassification, model, revision=revision, dtype=dtype, device=device)
        if labels is not None:
            self._unsafe_among(labels)

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """One verdict for each prompt and its answer; the score is the probability of what is unsafe.

        With several labels that is the most probable unsafe one, and ``categories`` are those above the threshold;
        otherwise it is the sum over the unsafe ones, and ``categories`` is the most probable label, if it is unsafe.

        Raises:
            ConfigurationError: If the model cannot be had, or its outputs are not those that the settings name.
        """
        pairs = list(zip(prompts, answers, strict=True))
        if not pairs:
            return []
        model, tokenizer = self._model.load()
        preset = JudgePreset.of(model.config, self._model.location)
        outputs, text = self._outputs(model.config, preset), self._text(self.text, self.max_length, preset)
        ids = [text.ids(tokenizer, prompt, answer) for prompt, answer in pairs]
        logits = iter(_logits(model, [row for row in ids if row is not None], self.batch_size))
        problem = f"the prompt alone fills max_length ({text.longest(tokenizer)} tokens)"
        return [Verdict(None, problem=problem) if row is None else self._verdict(next(logits), outputs) for row in ids]

    def release(self) -> None:
        """Drop the model; the next call loads it again."""
        self._model.release()

    @staticmethod
    def _text(text: str | None, max_length: int | None, preset: JudgePreset) -> JudgedText:
        """As the settings have it, or else the checkpoint, or else by default."""
        chosen = preset.text if text is None else text
        longest = preset.max_length if max_length is None else max_length
        return JudgedText(DEFAULT_TEXT if chosen is None else chosen, 2048 if longest is None else longest)

    def _outputs(self, config: Any, preset: JudgePreset) -> Outputs:
        """The settings on this checkpoint."""
        count = int(config.num_labels)
        labels = [str(config.id2label[i]) for i in range(count)] if self.labels is None else self.labels
        if len(labels) != count:
            raise ConfigurationError(
                f"a judge's labels must name each output of its model, and {self._model.location!r} has {count}, got "
                f"{len(labels)} ({shown(labels)}). Leave labels null for the checkpoint's own names."
            )
        several = self.multi_label
        if several is None:
            several = count == 1 or getattr(config, "problem_type", None) == "multi_label_classification"
        if not several and (self.unsafe is None or count == 1):
            raise ConfigurationError(
                "a judge whose answers have exactly one label must know which of two or more labels are unsafe, got unsafe "
                f"{self.unsafe} of {labels}. Name them in unsafe, or set multi_label to true."
            )
        thresholds = [preset.thresholds.get(label, 0.5) if self.threshold is None else self.threshold for label in labels]
        return Outputs(labels, self._unsafe_among(labels), several, thresholds)

    def _unsafe_among(self, labels: list[str]) -> list[int]:
        unsafe = labels if self.unsafe is None else self.unsafe
        if not unsafe or not set(unsafe) <= set(labels) or len(set(labels)) < len(labels):
            raise ConfigurationError(
                f"a judge's unsafe labels must stand among its labels, which all differ, got unsafe {unsafe} of {labels}. "
                "Write them as the checkpoint's id2label does, or as in labels."
            )
        return [i for i, label in enumerate(labels) if label in unsafe]

    def _verdict(self, logits: Tensor, outputs: Outputs) -> Verdict:
        probabilities = (logits.sigmoid() if outputs.multi_label else logits.softmax(-1)).tolist()
        if not all(map(math.isfinite, probabilities)):
            return Verdict(None, problem="the classifier's outputs are not finite; set dtype to float32 or bfloat16")
        unsafe = [probabilities[i] for i in outputs.unsafe]
        if outputs.multi_label:
            given = [i for i in outputs.unsafe if probabilities[i] > outputs.thresholds[i]]
            return Verdict(bool(given), tuple(outputs.labels[i] for i in given), max(unsafe))
        score, best = min(1.0, sum(unsafe)), max(probabilities)
        if score <= outputs.thresholds[0]:
            return Verdict(False, score=score)
        return Verdict(True, tuple(outputs.labels[i] for i in outputs.unsafe if probabilities[i] == best), score)


def _logits(model: PreTrainedModel, rows: list[list[int]], batch_size: int) -> Tensor:
    """Outputs (rows, labels) in float64, in the rows' order; rows of similar length share a batch."""
    batches = batches_by_length(rows, batch_size)
    logits = torch.empty(len(rows), int(model.config.num_labels), dtype=torch.float64)
    with undisturbed(model):
        for places in tqdm(batches, desc="Judge", leave=False, disable=len(batches) <= FEW_BATCHES):
            batch = padded([rows[i] for i in places], int(model.config.pad_token_id), model.device)
            logits[places] = model(**batch._asdict()).logits.cpu().double()
    return logits
