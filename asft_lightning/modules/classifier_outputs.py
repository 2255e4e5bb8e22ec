"""ClassifierReader: a sequence classifier's logits, and the embeddings that it reads them from."""

from typing import Any

import torch
from torch import Tensor, nn

from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.multi_label_loss import ClassifierOutputs


class ClassifierReader:
    """Runs a model and keeps what its last linear layer is given.

    Of a causal classifier that is the hidden state of a text's last token, of an encoder what its pooler or its head makes
    of the first. A label's own embedding is that times the label's weights: their sum is the logit, but for the bias.

    Args:
        model: Any sequence classifier of Transformers, with an adapter or without.
        labels: How many outputs it has.

    Raises:
        ConfigurationError: If its head has no linear layer with so many.
    """

    def __init__(self, model: Any, labels: int) -> None:
        heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
        if not heads:
            raise ConfigurationError(
                f"a judge's head must end in a linear layer with an output a label, {labels}, and that of "
                f"{type(model).__name__} does not. Take an architecture with another head."
            )
        self.model = model
        self.head = heads[-1]  # the head follows the body, and its trained copy PEFT's frozen one
        self._given: Tensor | None = None
        self.head.register_forward_pre_hook(self._keep)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> ClassifierOutputs:
        """The outputs on texts that are padded on the right, (n, longest) each."""
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        given, self._given = self._given, None
        assert given is not None
        if given.ndim == 3:  # at every token
            places = torch.arange(given.shape[1], device=given.device)
            last = (places * (input_ids != self.model.config.pad_token_id)).argmax(-1)  # by which Transformers goes
            given = given[torch.arange(len(given), device=given.device), last]
        return ClassifierOutputs(logits, given, given[:, None] * self.head.weight)

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._given = arguments[0]
