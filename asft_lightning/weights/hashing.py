"""What an anchor was made from, as a hash of its content: names of files and folders say nothing."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def content_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of named tensors, with their dtypes and shapes; one tensor at a time, memory-mapped ones without a copy."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def text_hash(*parts: str) -> str:
    """SHA-256 of texts, one after the other."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
