"""The optimizer: what its settings must be for all to be trained, and nothing to be undone that protects."""

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from asft_lightning.errors import ConfigurationError


def sound_optimizer(make: Callable[[list[nn.Parameter]], Optimizer], trained: list[nn.Parameter]) -> Optimizer:
    """The optimizer of these parameters, which trains them all, downhill.

    Raises:
        ConfigurationError: If a group's rate is not a positive number; its own, before a scheduler has warmed it up. Or if
            the optimizer maximises, leaves some of the parameters out, or refuses its settings.
    """
    try:
        optimizer = make(trained)
    except ValueError as error:  # torch's own words, e.g. for a negative rate
        raise ConfigurationError(
            f"an optimizer must take its settings, and it says: {error}. 5e-5 is the paper's rate."
        ) from error
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        if not 0 < rate < float("inf"):
            raise ConfigurationError(f"a learning rate must be a positive number, got {rate}. 5e-5 is the paper's.")
        if group.get("maximize"):
            raise ConfigurationError(
                "an optimizer must minimise the loss, and with it what protects, got maximize true. Leave it out."
            )
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if left := sum(id(parameter) not in given for parameter in trained):
        raise ConfigurationError(
            f"an optimizer must have all that is trained, and {left} of {len(trained)} weights are in none of its groups: "
            "they would stay as they are. Give it all of them, or train fewer layers."
        )
    return optimizer
