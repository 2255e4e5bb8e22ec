"""Real gloo ranks, in processes that are forked from a test's, and a model whose rows they part unevenly."""

import os
import time
import warnings

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh

from asft_lightning.runtime.sharding import shard
from kit import models, tiny


def on_ranks(function, world, folder, *arguments):
    """What ``function(rank, *arguments)`` returns on each of so many ranks; one that hangs fails the test."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked: a spawned one would import everything again")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded.*")
        given = (function, world, folder, arguments)
        context = multiprocessing.start_processes(_as_rank, given, nprocs=world, join=False, start_method="fork")
    deadline = time.monotonic() + 120
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the ranks did not end")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _as_rank(rank, function, world, folder, arguments):
    torch.set_num_threads(1)  # the parent's threads are not there after a fork
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def model_of(seed=3, r=3):
    """r 3 parts unevenly over two ranks; each rank draws its own factors, and the first one's count."""
    torch.manual_seed(seed)
    model = get_peft_model(models.tiny_model("chat", 1), LoraConfig(**tiny.LORA | {"r": r}, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def all_ranks():
    """The mesh of the ranks that this is one of."""
    return init_device_mesh("cpu", (dist.get_world_size(),))


def sharded(model):
    """The model, sharded over all ranks."""
    shard(model, all_ranks())
    return model


def trained(model):
    """{name: parameter} of what is trained."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
