"""What a finished adapter is put on: a model without weights, which tells its layers."""

from pathlib import Path

from peft import PeftModel

from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.runtime.reading import readable
from asft_lightning.weights.adapter_factors import load_config
from asft_lightning.weights.pretrained import Pretrained


def adapter_shapes(folder: Path, pretrained: Pretrained) -> PeftModel:
    """The model without weights, under an adapter of this one's configuration: its layers can be found, and be trained.

    Args:
        folder: The adapter's, in PEFT's format.
        pretrained: The checkpoints.

    Raises:
        ConfigurationError: If it is no LoRA adapter, or does not fit the model.
    """
    return readable(folder, lambda: _adapted(folder, pretrained), "an adapter")


def _adapted(folder: Path, pretrained: Pretrained) -> PeftModel:
    config = load_config(folder)
    config.inference_mode = False
    return LoRAFineTuner(pretrained, config).with_adapter(pretrained.load_model_on_meta())
