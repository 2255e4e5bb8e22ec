r"""Contrastive losses for rows with several labels (arXiv 2212.00552): rows that share labels are drawn together.

All are one form. s_ij = z_i·z_j / T; of row i, over the other rows j that are its positives,

    l_i = −(T / 0.07) · mean_j (s_ij − log Σ_{k≠i} w_ik e^{s_ik})

and the loss is the mean of l over rows. Embeddings are taken as they are, not normalised, and 0.07 is the authors' base
temperature. Where their code and their paper differ, this is their code; but a row without positives adds nothing here.

| loss | rows | positives of i | w_ik |
|---|---|---|---|
| strict (SCL) | texts | those with all labels equal | 1 |
| intra-label (ICL) | the labels of one text | those with an equal value | 1 |
| Jaccard (JSCL; JSPCL with logits for embeddings) | texts | all others | \|y_i∧y_k\| / \|y_i∨y_k\| |
| stepwise (SLCL) | texts, label by label | those with an equal value of this label | 1 |

All is float32, or wider where the embeddings are, with autocast off: in bfloat16 the differences within s would be lost.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

BASE_TEMPERATURE = 0.07


def strict_contrastive(
    embeddings: Tensor, labels: Tensor, temperature: float = 1.0, authors_constant: bool = False
) -> Tensor:
    """SCL: texts with exactly the same labels are positives.

    Args:
        embeddings: (n, d).
        labels: (n, L), 0 or 1.
        temperature: T > 0.
        authors_constant: Whether a row without positives adds −T/0.07, as in the authors' code; it has no gradient.

    Returns:
        A scalar.

    >>> apart = strict_contrastive(torch.eye(3), torch.tensor([[1, 0], [1, 0], [0, 1]]), temperature=1.0)
    >>> round(float(apart) * 0.07, 4)  # log 2 of two rows, and nothing of the third
    0.4621
    """
    with _autocast_off(embeddings):
        present, absent = _as_factors(labels, embeddings)
        is_equal = present @ present.mT + absent @ absent.mT == labels.shape[-1]
        return _mean_over_positives(embeddings, is_equal, temperature, authors_constant)


def intra_label_contrastive(
    label_embeddings: Tensor, labels: Tensor, temperature: float = 1.0, authors_constant: bool = False
) -> Tensor:
    """ICL: within each text, labels that it has are positives of each other, and so are labels that it lacks.

    Args:
        label_embeddings: (n, L, d), an embedding of each label in each text.
        labels: (n, L), 0 or 1.
        temperature: T > 0.
        authors_constant: As in :func:`strict_contrastive`.

    Returns:
        A scalar. The authors' code divides it by L once more, which is a smaller share of it in the total.
    """
    with _autocast_off(label_embeddings):
        is_equal = labels.unsqueeze(-1) == labels.unsqueeze(-2)
        return _mean_over_positives(label_embeddings, is_equal, temperature, authors_constant)


def jaccard_contrastive(embeddings: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """JSCL, and JSPCL where the embeddings are the logits: a text is held apart from others as far as labels are shared.

    A text that shares no label with another adds nothing: there the authors' code takes log 1e-20, or log 0 for a text
    without labels.

    Args:
        embeddings: (n, d).
        labels: (n, L), 0 or 1.
        temperature: T > 0.

    Returns:
        A scalar, which may be negative.
    """
    with _autocast_off(embeddings):
        present, _ = _as_factors(labels, embeddings)
        shared, sizes = present @ present.mT, present.sum(-1, keepdim=True)
        weights = shared / (sizes + sizes.mT - shared).clamp_min(1)
        similarities, is_other = _similarities(embeddings, temperature)
        totals, has_any = _log_totals(similarities + weights.log(), is_other & (weights > 0))
        means = similarities.sum(-1) / is_other.sum(-1).clamp_min(1)
        return torch.where(has_any, _scaled(means - totals, temperature), 0).mean()


def stepwise_contrastive(
    embeddings: Tensor, labels: Tensor, temperature: float = 1.0, authors_constant: bool = False
) -> Tensor:
    """SLCL: a loss for each label, of which texts with an equal value are positives; their mean.

    Args:
        embeddings: (n, d).
        labels: (n, L), 0 or 1.
        temperature: T > 0.
        authors_constant: As in :func:`strict_contrastive`, for each label.

    Returns:
        A scalar. The authors' code divides it by n once more, which is a smaller share of it in the total.
    """
    with _autocast_off(embeddings):
        present, absent = _as_factors(labels, embeddings)
        similarities, is_other = _similarities(embeddings, temperature)
        others = is_other.to(present.dtype)
        # One product for all labels: of a text that has a label those that have it count, else those that lack it.
        sums = present * (similarities @ present) + absent * (similarities @ absent)
        counts = present * (others @ present) + absent * (others @ absent)
        totals, _ = _log_totals(similarities, is_other)
        return _mean_over_rows(sums, counts, totals.unsqueeze(-1), temperature, authors_constant)


def _autocast_off(tensor: Tensor) -> AbstractContextManager[None]:
    off: AbstractContextManager[None] = torch.autocast(tensor.device.type, enabled=False)
    return off


def _as_factors(labels: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Which labels are there and which are not (n, L), as numbers: their products count, exactly."""
    present = labels.to(torch.promote_types(embeddings.dtype, torch.float32))
    return present, 1 - present


def _similarities(embeddings: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The s (..., n, n), with 0 on its diagonal, but for a constant a row; and which pairs are of two rows."""
    exact = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    # What all rows have in common adds the same to all of a row of s, and cancels in l_i; left in, it would round it away.
    centre = exact.detach().mean(-2, keepdim=True)
    is_other = ~torch.eye(exact.shape[-2], dtype=torch.bool, device=exact.device)
    return torch.where(is_other, exact @ (exact - centre).mT / temperature, 0), is_other


def _log_totals(exponents: Tensor, is_counted: Tensor) -> tuple[Tensor, Tensor]:
    """The log Σ e^x over what is counted in each row (..., n), 0 where nothing is; and whether anything is."""
    has_any = is_counted.any(-1)
    # A row of −inf alone has no gradient that is a number, so one where nothing counts is 0 throughout.
    counted = torch.where(is_counted, exponents, torch.where(has_any, -torch.inf, 0.0).unsqueeze(-1))
    return torch.where(has_any, counted.logsumexp(-1), 0), has_any


def _mean_over_positives(embeddings: Tensor, is_equal: Tensor, temperature: float, authors_constant: bool) -> Tensor:
    similarities, is_other = _similarities(embeddings, temperature)
    is_positive = is_equal & is_other
    sums = torch.where(is_positive, similarities, 0).sum(-1)
    totals, _ = _log_totals(similarities, is_other)
    return _mean_over_rows(sums, is_positive.sum(-1), totals, temperature, authors_constant)


def _mean_over_rows(sums: Tensor, counts: Tensor, totals: Tensor, temperature: float, authors_constant: bool) -> Tensor:
    """The mean of l, from the positives' sums of s and their counts, and the logarithms of the denominators."""
    alone = -temperature / BASE_TEMPERATURE if authors_constant else 0.0
    return torch.where(counts > 0, _scaled(sums / counts.clamp_min(1) - totals, temperature), alone).mean()


def _scaled(log_shares: Tensor, temperature: float) -> Tensor:
    return log_shares * (-temperature / BASE_TEMPERATURE)
