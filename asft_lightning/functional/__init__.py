"""Pure tensor functions: the mathematics of the penalty. No state, no Lightning, no I/O."""

from asft_lightning.functional.alignment import AlignmentMap, Spectrum, gram_map, harmful_map, split_factor, subspace_map
from asft_lightning.functional.conflict import without_conflict
from asft_lightning.functional.constraint import answer_places, constraint_weights
from asft_lightning.functional.contrastive import (
    intra_label_contrastive,
    jaccard_contrastive,
    stepwise_contrastive,
    strict_contrastive,
)
from asft_lightning.functional.decomposition import (
    LeftSingular,
    leading_left_singular,
    left_singular,
    left_singular_of_square,
    low_rank_left_singular,
    working_dtype,
)
from asft_lightning.functional.discriminant import discriminant
from asft_lightning.functional.divergence import mean_divergence, mean_squared_distance
from asft_lightning.functional.drift import budget_multiplier, without_share
from asft_lightning.functional.full_penalty import full_update_penalty
from asft_lightning.functional.landscape import Basin, basin, effective_size, expected_cosine, visage
from asft_lightning.functional.loss import IGNORE_INDEX, mean_over_rows, mean_over_tokens, token_losses
from asft_lightning.functional.low_rank import LowRank, low_rank, low_rank_sum
from asft_lightning.functional.margin import log_odds, top_token_margin
from asft_lightning.functional.margin_change import MarginChange, margin_change
from asft_lightning.functional.output_directions import output_directions, projected_start
from asft_lightning.functional.penalty import update_penalty
from asft_lightning.functional.principal import Principal
from asft_lightning.functional.projection import gram_applied, shrunk, update_cosine, update_product
from asft_lightning.functional.quadratic_form import QuadraticForm, Total, applied_and_gram, whole
from asft_lightning.functional.relative_change import RelativeChange, relative_change
from asft_lightning.functional.row_gradients import matrix_cosines, row_gradients, unit_matrices
from asft_lightning.functional.safety_layers import cosine_gap, rising_layers

__all__ = [
    "IGNORE_INDEX",
    "AlignmentMap",
    "Basin",
    "LeftSingular",
    "LowRank",
    "MarginChange",
    "Principal",
    "QuadraticForm",
    "RelativeChange",
    "Spectrum",
    "Total",
    "answer_places",
    "applied_and_gram",
    "basin",
    "budget_multiplier",
    "constraint_weights",
    "cosine_gap",
    "discriminant",
    "effective_size",
    "expected_cosine",
    "full_update_penalty",
    "gram_applied",
    "gram_map",
    "harmful_map",
    "intra_label_contrastive",
    "jaccard_contrastive",
    "leading_left_singular",
    "left_singular",
    "left_singular_of_square",
    "log_odds",
    "low_rank",
    "low_rank_left_singular",
    "low_rank_sum",
    "margin_change",
    "matrix_cosines",
    "mean_divergence",
    "mean_over_rows",
    "mean_over_tokens",
    "mean_squared_distance",
    "output_directions",
    "projected_start",
    "relative_change",
    "rising_layers",
    "row_gradients",
    "shrunk",
    "split_factor",
    "stepwise_contrastive",
    "strict_contrastive",
    "subspace_map",
    "token_losses",
    "top_token_margin",
    "unit_matrices",
    "update_cosine",
    "update_penalty",
    "update_product",
    "visage",
    "whole",
    "without_conflict",
    "without_share",
    "working_dtype",
]
