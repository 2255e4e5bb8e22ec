"""A model used in the middle of training, without a trace in the training that goes on around it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; afterwards each module's own mode and every global RNG are as they were.

    A DataLoader's iterator, dropout and sampling all draw from the global generators: without this, scoring a model
    would change how its training goes on.
    """
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, is_training in modes:
                module.training = is_training
            random.setstate(states[0])
            np.random.set_state(states[1])
