"""One step of each contrastive loss, forward and backward, beside the authors' way and beside the formula, pair by pair."""

from collections.abc import Callable, Iterator

import torch
from figures import Figure, paired
from torch import Tensor, nn

from asft_lightning.modules import ClassifierOutputs, ContrastiveLoss

BATCH, LABELS, WIDTH = 256, 14, 576
Loss = Callable[[ClassifierOutputs, Tensor], Tensor]


def measure(repeats: int, device: str) -> Iterator[Figure]:
    """A batch of 256 texts with 14 labels, at SmolLM2's width; the loops over pairs run once, being slow."""
    generator = torch.Generator().manual_seed(0)
    embeddings = nn.Parameter(torch.randn(BATCH, WIDTH, generator=generator).to(device))
    head = torch.randn(LABELS, WIDTH, generator=generator).to(device) / WIDTH
    labels = (torch.rand(BATCH, LABELS, generator=generator) < 0.2).to(device)
    outputs = ClassifierOutputs(embeddings @ head.mT, embeddings, embeddings[:, None] * head)

    def step(loss: Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(outputs, labels), embeddings, retain_graph=True)

    for kind, authors in _AUTHORS.items():
        ours, what = step(ContrastiveLoss(kind)), f"{kind}, batch {BATCH}, {LABELS} labels"
        yield Figure("contrastive", what, "as the authors' code", *paired(ours, step(authors), repeats))
        yield Figure("contrastive", what, "a loop over pairs", *paired(ours, step(_LOOPED[kind]), 1, warm_up=0))


def _contrast(embeddings: Tensor, positives: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """The matrix form for one set of rows."""
    similarities = embeddings @ embeddings.mT
    similarities = similarities - similarities.detach().amax(1, keepdim=True)
    others = 1 - torch.eye(len(embeddings), device=embeddings.device)
    shares = similarities - ((similarities.exp() * others + 1e-20) * weights).sum(1, keepdim=True).log()
    return -((positives * others * shares).sum(1) / ((positives * others).sum(1) + 1e-20)).mean()


def _counted(count: Callable[[list[int]], float], labels: Tensor) -> Tensor:
    """What two rows of labels have in common, counted for each pair."""
    rows = labels.int()
    return torch.tensor([[float(count((a + b).tolist())) for b in rows] for a in rows], device=labels.device)


def _overlap(together: list[int]) -> float:
    return together.count(2) / max(1, together.count(2) + together.count(1))


def _equal(values: Tensor) -> Tensor:
    return (values[:, None] == values).float()


def _authors_strict(outputs: ClassifierOutputs, labels: Tensor) -> Tensor:
    return _contrast(outputs.embeddings, _counted(lambda together: together.count(1) == 0, labels))


def _authors_jaccard(embeddings: Tensor, labels: Tensor) -> Tensor:
    return _contrast(embeddings, torch.ones(BATCH, BATCH, device=labels.device), _counted(_overlap, labels))


def _authors_intra_label(outputs: ClassifierOutputs, labels: Tensor) -> Tensor:
    texts = zip(outputs.label_embeddings, labels, strict=True)
    return torch.stack([_contrast(embeddings, _equal(values)) for embeddings, values in texts]).mean()


def _authors_stepwise(outputs: ClassifierOutputs, labels: Tensor) -> Tensor:
    return torch.stack([_contrast(outputs.embeddings, _equal(values)) for values in labels.T]).mean()


_AUTHORS: dict[str, Loss] = {
    "SCL": _authors_strict,
    "ICL": _authors_intra_label,
    "JSCL": lambda outputs, labels: _authors_jaccard(outputs.embeddings, labels),
    "JSPCL": lambda outputs, labels: _authors_jaccard(outputs.logits, labels),
    "SLCL": _authors_stepwise,
}


def _looped(embeddings: Tensor, values: list[list[int]], overlap: Callable[[list[int]], float] | None = None) -> Tensor:
    """The formula as it stands: with ``overlap`` all others are positives, else those of equal values."""
    losses = []
    for i, row in enumerate(embeddings @ embeddings.mT):
        similarities = row.unbind()
        others = [k for k in range(len(similarities)) if k != i]
        shared = {k: 1.0 if overlap is None else overlap([a + b for a, b in zip(values[i], values[k], strict=True)])
                  for k in others}  # fmt: skip
        total = torch.stack([similarities[k].exp() * shared[k] for k in others]).sum().log()
        positives = [j for j in others if overlap is not None or values[i] == values[j]]
        losses.append(-sum((similarities[j] - total for j in positives), row.new_zeros(())) / max(1, len(positives)))
    return torch.stack(losses).mean()


def _looped_intra_label(outputs: ClassifierOutputs, labels: Tensor) -> Tensor:
    texts = zip(outputs.label_embeddings, labels.int().tolist(), strict=True)
    return torch.stack([_looped(embeddings, [[value] for value in values]) for embeddings, values in texts]).mean()


def _looped_stepwise(outputs: ClassifierOutputs, labels: Tensor) -> Tensor:
    values = labels.int().T[:, :, None].tolist()
    return torch.stack([_looped(outputs.embeddings, of_label) for of_label in values]).mean()


_LOOPED: dict[str, Loss] = {
    "SCL": lambda outputs, labels: _looped(outputs.embeddings, labels.int().tolist()),
    "ICL": _looped_intra_label,
    "JSCL": lambda outputs, labels: _looped(outputs.embeddings, labels.int().tolist(), _overlap),
    "JSPCL": lambda outputs, labels: _looped(outputs.logits, labels.int().tolist(), _overlap),
    "SLCL": _looped_stepwise,
}
