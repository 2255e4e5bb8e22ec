"""LightningModules, one method a file."""

from asft_lightning.modules.asft import AsFT
from asft_lightning.modules.constrained_sft import ConstrainedSFT
from asft_lightning.modules.fine_tuner import FineTuner
from asft_lightning.modules.full_asft import FullAsFT
from asft_lightning.modules.full_fine_tuner import FullFineTuner
from asft_lightning.modules.judge_trainer import JudgeTrainer
from asft_lightning.modules.lisa import Lisa
from asft_lightning.modules.lora_fine_tuner import LoRAFineTuner
from asft_lightning.modules.multi_label_loss import ClassifierOutputs, ContrastiveLoss, MultiLabelLoss
from asft_lightning.modules.salora import SaLoRA
from asft_lightning.modules.sbr import SBR
from asft_lightning.modules.sppft import SPPFT
from asft_lightning.modules.task_loss import TaskLoss

__all__ = [
    "SBR",
    "SPPFT",
    "AsFT",
    "ClassifierOutputs",
    "ConstrainedSFT",
    "ContrastiveLoss",
    "FineTuner",
    "FullAsFT",
    "FullFineTuner",
    "JudgeTrainer",
    "Lisa",
    "LoRAFineTuner",
    "MultiLabelLoss",
    "SaLoRA",
    "TaskLoss",
]
