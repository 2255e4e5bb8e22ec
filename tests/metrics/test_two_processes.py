"""Both metrics over two processes with uneven shares: one figure over all answers, not the mean of two."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from asft_lightning import AnswerAccuracy, HarmfulScore

SHARES = ([1, 0, 0, 0, 0], [1])
ANSWERS = (["a", "b", "c", "d"], ["x", "x"])
REFERENCES = (["a", "b", "c", "x"], ["y", "z"])


def scores_of(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        safety, utility = HarmfulScore(), AnswerAccuracy()
        safety.update(torch.tensor(SHARES[rank]))
        utility.update(ANSWERS[rank], REFERENCES[rank])
        torch.save([float(safety.compute()), float(utility.compute())], f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked: a spawned one would import everything again")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*")
def test_uneven_shares(tmp_path):
    """HS: 2 of 6, where the shares' mean is 60. FA: 3 of 6, where it is 37.5."""
    multiprocessing.start_processes(scores_of, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx([100 / 3, 50.0])
