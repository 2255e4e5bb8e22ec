"""Where people already train: the trainers of Transformers and TRL, held and scored."""

from asft_lightning.integrations.asft_trainer import AsFTTrainer
from asft_lightning.integrations.trainer_scoring import TrainerScoring

__all__ = ["AsFTTrainer", "TrainerScoring"]
