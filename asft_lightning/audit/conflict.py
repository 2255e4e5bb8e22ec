"""Conflict: how far training on a row moves the aligned model as complying with unsafe requests would move it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from asft_lightning.audit.row_gradients import Batch, RowGradients
from asft_lightning.errors import AnchorError
from asft_lightning.functional import matrix_cosines


def conflict_scores(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    targets: Sequence[str],
    harmful: Iterable[Batch],
    benign: Iterable[Batch],
    rank: int = 32,
    seed: int = 0,
) -> Tensor:
    """The conflict of each training row with the model's refusals: high where training on it undoes them.

    (cos(P, H) − cos(P, N))/2, the mean over layers: P the row's gradient (:class:`RowGradients`), H and N the mean gradients
    of harmful and benign rows, each row's divided by its norm first. Anchored on both sides as in "What is in your safe
    data?" (arXiv 2404.01099), but layer by layer: the layers' gradients differ in size, and each counts alike here.

    Args:
        model: The aligned model, as it stands; it is left as it is found.
        batches: The training rows.
        targets: The layers that are to be trained, by their names in the plain model; or some of them, the upper half say:
            the way back ends at the lowest.
        harmful: A few unsafe requests with answers that comply; of an answer an opening is enough.
        benign: A few rows known to be good, best of the kind of the training rows.
        rank: Of the random A; the more, the nearer to the whole weight's gradients.
        seed: Of A.

    Returns:
        (rows,) in −1..1, float32 or more, on the CPU, in the rows' order.

    Raises:
        AnchorError: If the model lacks a layer or does not give it every token, a gradient is not finite, or harmful and
            benign rows do not differ.
    """
    gradients = RowGradients(model, targets, rank, seed)
    towards, away = (gradients.mean_directions(rows) for rows in (harmful, benign))
    if all(torch.equal(towards[name], away[name]) for name in towards):
        raise AnchorError(
            "conflict needs harmful and benign rows that differ, and their gradients are the same. Give others."
        )

    def scores(batch: Batch) -> Tensor:
        of_layers: list[Tensor] = []

        def add(name: str, found: Tensor) -> None:
            difference = matrix_cosines(found, towards[name]) - matrix_cosines(found, away[name])
            of_layers.append(difference.cpu() / 2)

        gradients(batch, add)
        return torch.stack(of_layers).mean(dim=0)

    return torch.cat([torch.empty(0), *map(scores, batches)])  # a rank may have no row
