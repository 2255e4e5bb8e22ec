import math

import pytest

from asft_lightning.anchors import Gram, Harmful, Shrinkage, Subspace
from asft_lightning.anchors.anchor import sum_label
from asft_lightning.errors import AnchorError


@pytest.mark.parametrize("variant", [Gram, Subspace, Shrinkage, Harmful])
@pytest.mark.parametrize("weight", [0, -1.0, math.nan])
def test_a_weight_must_protect(variant, weight):
    with pytest.raises(AnchorError, match=rf"{variant.__name__} needs a weight above 0, got .* Leave an anchor out"):
        variant(weight=weight)


def test_settings_are_plain_data_with_every_argument():
    assert Gram(weight=0.5).settings() == {"class": "Gram", "weight": 0.5, "tolerance": 0.01}
    assert Subspace(num_directions=3).settings() == {
        "class": "Subspace",
        "weight": 1.0,
        "num_directions": 3,
        "explained_variance": None,
    }


@pytest.mark.parametrize(
    ("anchors", "expected"),
    [
        ([Gram()], "Gram"),
        ([Gram(weight=0.25), Shrinkage()], "0.25 Gram + Shrinkage"),
        ([Subspace(weight=3)], "3 Subspace"),
    ],
)
def test_a_sum_is_described_by_its_terms(anchors, expected):
    assert sum_label(anchors) == expected


@pytest.mark.parametrize(
    ("variant", "needs"),
    [(Gram, {"aligned", "base"}), (Subspace, {"aligned", "base"}), (Shrinkage, set()), (Harmful, {"aligned"})],
)
def test_only_what_a_variant_needs_is_asked_for(variant, needs):
    assert variant.needs == needs
