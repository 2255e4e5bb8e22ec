"""What holds a model is built from itself: its adapter is switched off, and what is left is the aligned model."""

from collections.abc import Callable, Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from asft_lightning.anchors import Anchor, AnchorSet, Answers, KeptAnswers, Probe, build_anchors
from asft_lightning.anchors.anchor import needs_of
from asft_lightning.anchors.build import user_cache
from asft_lightning.chat.template import Template
from asft_lightning.weights.matrices import WeightSource, open_weights


class Building:
    """Builds anchors and answers from a live model.

    Args:
        model: The aligned model, under the adapter that will be trained.
        tokenizer: Gives the model's tokenizer, where something runs the model.
        template: How prompts are written for it.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[[], PreTrainedTokenizerBase], template: Template) -> None:
        self._model, self._tokenizer, self._template = model, tokenizer, template

    def anchors(self, anchors: Sequence[Anchor] | AnchorSet, base: WeightSource | None) -> AnchorSet | None:
        """The anchors, from the user's cache if there; None where none are asked for.

        Args:
            anchors: Variants to sum, or what was built of them before.
            base: The unaligned model, for variants that look at it.

        Raises:
            AnchorError: If one cannot be built.
        """
        if isinstance(anchors, AnchorSet):
            return anchors
        if not anchors:
            return None
        probe = self._probe() if "model" in needs_of(anchors) else None
        return build_anchors(self._model, self._model, base, anchors, cache=user_cache(), probe=probe)

    def answers(self, answers: Answers | None) -> KeptAnswers | None:
        """The model's answers, likewise.

        Raises:
            DataError: If the prompts cannot be read.
        """
        return None if answers is None else answers.build(self._probe(), open_weights(self._model))

    def _probe(self) -> Probe:
        attention = getattr(getattr(self._model, "config", None), "_attn_implementation", None)
        return Probe(self._model, self._tokenizer(), self._template, loading=f"live, {attention} attention")
