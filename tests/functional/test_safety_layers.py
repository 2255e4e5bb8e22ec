"""Safety layers, by hand and pair by pair."""

import itertools

import pytest
import torch
from kit.references import randn

from asft_lightning.functional import cosine_gap, rising_layers


def test_gap_is_the_mean_over_all_pairs():
    harmless, unsafe = randn(4, 3, 6, seed=0, dtype=torch.float64), randn(5, 3, 6, seed=1, dtype=torch.float64)
    cosine = torch.nn.CosineSimilarity(dim=0)
    for layer, found in enumerate(cosine_gap(harmless, unsafe).tolist()):
        alike = [float(cosine(x[layer], y[layer])) for x, y in itertools.combinations(harmless, 2)]
        apart = [float(cosine(x[layer], y[layer])) for x in harmless for y in unsafe]
        assert found == pytest.approx(sum(alike) / len(alike) - sum(apart) / len(apart), rel=1e-9)


@pytest.mark.parametrize(
    ("gap", "layers"),
    [
        ([0.0, 0.0, 0.01, 0.02, 0.02, 0.03, 0.04], [2, 3, 5]),  # the last one is none, where it does not grow it goes on
        ([0.0, 0.0005, 0.001, 0.0015, 0.9], []),  # never by more than 0.001
        ([0.0, 0.1, 0.1005, 0.1, 0.1], [1, 2]),  # by 0.0005 once they have begun
        ([0.0, 0.1], []),
        ([0.3], []),
    ],
)
def test_layers_at_which_it_grows(gap, layers):
    assert rising_layers(torch.tensor(gap, dtype=torch.float64)) == layers
