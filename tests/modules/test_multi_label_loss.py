"""BCE and a contrastive loss, in the shares that are asked for."""

import math

import pytest
import torch
from kit.references import randn
from torch import nn

from asft_lightning import ConfigurationError
from asft_lightning.functional import (
    intra_label_contrastive,
    jaccard_contrastive,
    stepwise_contrastive,
    strict_contrastive,
)
from asft_lightning.modules import ClassifierOutputs, ContrastiveLoss, MultiLabelLoss

OUTPUTS = ClassifierOutputs(randn(5, 3), randn(5, 8, seed=1), randn(5, 3, 8, seed=2))
LABELS = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]])
EXPECTED = {
    "SCL": strict_contrastive(OUTPUTS.embeddings, LABELS, 0.5),
    "ICL": intra_label_contrastive(OUTPUTS.label_embeddings, LABELS, 0.5),
    "JSCL": jaccard_contrastive(OUTPUTS.embeddings, LABELS, 0.5),
    "JSPCL": jaccard_contrastive(OUTPUTS.logits, LABELS, 0.5),
    "SLCL": stepwise_contrastive(OUTPUTS.embeddings, LABELS, 0.5),
}
BCE = nn.functional.binary_cross_entropy_with_logits(OUTPUTS.logits, LABELS.float())


@pytest.mark.parametrize("kind", EXPECTED)
def test_share_of_each_loss(kind):
    assert ContrastiveLoss(kind, 0.5)(OUTPUTS, LABELS) == EXPECTED[kind]
    total = MultiLabelLoss(kind, alpha=0.1, temperature=0.5)(OUTPUTS, LABELS)
    torch.testing.assert_close(total, 0.9 * BCE + 0.1 * EXPECTED[kind])


def test_bce_alone_is_whole_whatever_alpha():
    assert MultiLabelLoss(alpha=0.5)(OUTPUTS, LABELS) == BCE


def test_weight_of_labels_that_are_there():
    """At logits of 0 each label costs log 2: two of four are there, and one of these counts threefold."""
    outputs = ClassifierOutputs(torch.zeros(2, 2, dtype=torch.bfloat16), randn(2, 8))
    loss = MultiLabelLoss(positive_weights=[3.0, 1.0])(outputs, torch.tensor([[1, 0], [0, 1]]))
    torch.testing.assert_close(loss, torch.tensor(math.log(2) * (3 + 1 + 1 + 1) / 4))


def test_icl_without_label_embeddings():
    with pytest.raises(ConfigurationError, match=r"ICL .* got no label_embeddings. Give them, or take SCL"):
        ContrastiveLoss("ICL")(OUTPUTS._replace(label_embeddings=None), LABELS)


@pytest.mark.parametrize(("settings", "message"), [
    ({"contrastive": "scl"}, "must be one of SCL, ICL, JSCL, JSPCL, SLCL, got 'scl'"),
    ({"contrastive": "SCL", "temperature": 0}, "temperature must be positive and finite, got 0"),
    ({"alpha": 1.1}, "alpha is the contrastive loss's share, 0 to 1, got 1.1"),
    ({"positive_weights": [1.0, 0.0]}, r"positive_weights must be positive and finite, got \[1.0, 0.0\]"),
])  # fmt: skip
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        MultiLabelLoss(**settings)
