"""RowConflicts: how far training on a row moves the aligned model as complying with unsafe requests would move it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from asft_lightning.audit.row_gradients import Batch, RowGradients
from asft_lightning.errors import AnchorError
from asft_lightning.functional import matrix_cosines


class RowConflicts:
    """The conflict of training rows with the model's refusals: high where training on one undoes them.

    (cos(P, H) − (cos(P, N) + cos(P, R))/2)/2, the mean over layers: P the row's gradient (:class:`RowGradients`), H, N and R
    the mean gradients of harmful rows, benign rows and refusals, each row's divided by its norm first. Harmful and benign
    anchors are those of "What is in your safe data?" (arXiv 2404.01099); without the refusals, harmful rows in another
    style than H's are missed. Layers differ in the size of their gradients, and each counts alike here.

    Args:
        model: The aligned model, as it stands; it is left as it is found.
        targets: The layers that are to be trained, by their names in the plain model; or some of them, the upper half say:
            the way back ends at the lowest.
        harmful: A few unsafe requests with answers that comply; of an answer an opening is enough.
        benign: A few rows known to be good, best of the kind of the training rows.
        refusals: The model's own answers to a few unsafe prompts.
        rank: Of the random A; the more, the nearer to the whole weight's gradients.
        seed: Of A.

    Raises:
        AnchorError: If the model lacks a layer or does not give it every token, a gradient is not finite, or harmful and
            benign rows do not differ.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        targets: Sequence[str],
        harmful: Iterable[Batch],
        benign: Iterable[Batch],
        refusals: Iterable[Batch],
        rank: int = 32,
        seed: int = 0,
    ) -> None:
        self._gradients = RowGradients(model, targets, rank, seed)
        self._towards, *self._away = (self._gradients.mean_directions(rows) for rows in (harmful, benign, refusals))
        if all(torch.equal(direction, self._away[0][name]) for name, direction in self._towards.items()):
            raise AnchorError(
                "conflict needs harmful and benign rows that differ, and their gradients are the same. Give others."
            )

    def __call__(self, batch: Batch) -> Tensor:
        """The conflict of each row of a batch (rows,), in −1..1, float32 or more, on the CPU.

        Raises:
            AnchorError: If a gradient is not finite.
        """
        of_layers: list[Tensor] = []

        def add(name: str, found: Tensor) -> None:
            kept = torch.stack([matrix_cosines(found, directions[name]) for directions in self._away]).mean(dim=0)
            of_layers.append((matrix_cosines(found, self._towards[name]) - kept).cpu() / 2)

        self._gradients(batch, add)
        return torch.stack(of_layers).mean(dim=0)
