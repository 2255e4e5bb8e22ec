"""Conflict: how far training on a row moves the aligned model as complying with unsafe requests would move it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from asft_lightning.anchors.kept_answers import KeptAnswers
from asft_lightning.audit.row_gradients import Batch, RowGradients
from asft_lightning.errors import AnchorError
from asft_lightning.functional import IGNORE_INDEX, matrix_cosines


def conflict_scores(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    targets: Sequence[str],
    harmful: Iterable[Batch],
    benign: Iterable[Batch],
    refusals: Iterable[Batch],
    rank: int = 32,
    seed: int = 0,
) -> Tensor:
    """The conflict of each training row with the model's refusals: high where training on it undoes them.

    (cos(P, H) − (cos(P, N) + cos(P, R))/2)/2, the mean over layers: P the row's gradient (:class:`RowGradients`), H, N and R
    the mean gradients of harmful rows, benign rows and refusals, each row's divided by its norm first. Harmful and benign
    anchors are those of "What is in your safe data?" (arXiv 2404.01099); without the refusals, harmful rows in another
    style than H's are missed. Layers differ in the size of their gradients, and each counts alike here.

    Args:
        model: The aligned model, as it stands; it is left as it is found.
        batches: The training rows.
        targets: The layers that are to be trained, by their names in the plain model; or some of them, the upper half say:
            the way back ends at the lowest.
        harmful: A few unsafe requests with answers that comply; of an answer an opening is enough.
        benign: A few rows known to be good, best of the kind of the training rows.
        refusals: The model's own answers to a few unsafe prompts, see :func:`answer_batches`.
        rank: Of the random A; the more, the nearer to the whole weight's gradients.
        seed: Of A.

    Returns:
        (rows,) in −1..1, float32 or more, on the CPU, in the rows' order.

    Raises:
        AnchorError: If the model lacks a layer or does not give it every token, a gradient is not finite, or harmful and
            benign rows do not differ.
    """
    gradients = RowGradients(model, targets, rank, seed)
    towards, *away = (gradients.mean_directions(rows) for rows in (harmful, benign, refusals))
    if all(torch.equal(towards[name], away[0][name]) for name in towards):
        raise AnchorError(
            "conflict needs harmful and benign rows that differ, and their gradients are the same. Give others."
        )

    def scores(batch: Batch) -> Tensor:
        of_layers: list[Tensor] = []

        def add(name: str, found: Tensor) -> None:
            kept = torch.stack([matrix_cosines(found, directions[name]) for directions in away]).mean(dim=0)
            of_layers.append((matrix_cosines(found, towards[name]) - kept).cpu() / 2)

        gradients(batch, add)
        return torch.stack(of_layers).mean(dim=0)

    return torch.cat([torch.empty(0), *map(scores, batches)])  # a rank may have no row


def answer_batches(answers: KeptAnswers, batch_size: int) -> list[Batch]:
    """The model's own answers (:meth:`Probe.answers`) as rows that would teach them."""
    places = torch.arange(answers.input_ids.shape[1])
    attended = places < answers.lengths[:, None]
    learnt = attended & (places >= answers.prompt_lengths[:, None])
    labels = answers.input_ids.where(learnt, torch.tensor(IGNORE_INDEX))
    whole = {"input_ids": answers.input_ids, "attention_mask": attended.long(), "labels": labels}
    starts = range(0, len(labels), batch_size)
    return [{name: part[start : start + batch_size] for name, part in whole.items()} for start in starts]
