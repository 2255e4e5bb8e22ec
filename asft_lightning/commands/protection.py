"""What protects a run of ``asft-lightning protect``: a method's config, with chosen prompts and strength."""

from collections.abc import Mapping
from typing import Any

from asft_lightning import modules
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.named_configs import find_config
from asft_lightning.runtime.yaml_files import read_yaml

PROMPTS: Mapping[str, str] = {"unsafe": "catalogue:unsafe-prompts", "harmless": "catalogue:harmless-prompts"}
"""What the methods' configs hold a model by."""
_SAFETY = {"safety_rows", "safety_apart"}
"""Settings of data that ask for refusals among the user's rows."""


def protection_of(method: str, given: Mapping[str, str | None], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What a method's config says of the model and of the data, with the prompts that are chosen.

    Raises:
        ConfigurationError: If it is more than that, or prompts are given that it does not ask for.
    """
    config = read_yaml(find_config(f"methods/{method}"), "Name a method.")
    if more := sorted(config.keys() - {"model", "data"}) or sorted(
        _SAFETY & config.get("data", {}).get("init_args", {}).keys()
    ):
        raise ConfigurationError(
            f"protect takes methods that are a model's and an audit's settings, and {method} sets {more[0]} as well. Take "
            f"asft-lightning fit --config methods/{method} with configs of a model, data and a trainer."
        )
    module = getattr(modules, config["model"]["class_path"].rpartition(".")[2])
    if not issubclass(module, modules.LoRAFineTuner):
        raise ConfigurationError(
            f"protect trains LoRA, and {method} trains weights themselves. Take asft-lightning fit --config "
            f"methods/{method} with configs of a model, data and a trainer."
        )
    for kind, path in PROMPTS.items():
        if given[kind] is not None and path not in str(config):
            raise ConfigurationError(
                f"{kind} prompts are for methods that hold a model by them, and {method} does not. Leave them out."
            )
    config = _with_prompts(config, {path: chosen[kind] for kind, path in PROMPTS.items()})
    data = config.get("data", {"class_path": "asft_lightning.MixtureDataModule"})
    return {"model": with_settings(config["model"]), "data": with_settings(data)}


def strengthen(settings: dict[str, Any], lambda_reg: float | None, budget: float | None, method: str) -> None:
    """Put a weight or a limit where the method has one.

    Raises:
        ConfigurationError: If it has none.
    """
    if lambda_reg is not None:
        if "lambda_reg" not in settings:
            raise ConfigurationError(f"lambda_reg is the weight of a penalty, and {method} has none. Leave it out.")
        settings["lambda_reg"] = lambda_reg
    if budget is None:
        return
    if "drift_budget" in settings:
        settings["drift_budget"] = budget
    elif settings.get("answers"):
        settings["answers"]["budget"] = budget
    else:
        raise ConfigurationError(
            f"budget is a limit of methods that hold answers or the drift, and {method} is none. Leave it out, or name "
            "protect or drift-budget."
        )


def with_settings(part: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A part of a config with these of its arguments."""
    return part | {"init_args": part.get("init_args", {}) | settings}


def _with_prompts(part: Any, files: Mapping[str, str]) -> Any:
    """A config with {path: this file in its place}."""
    if isinstance(part, dict):
        return {key: _with_prompts(value, files) for key, value in part.items()}
    if isinstance(part, list):
        return [_with_prompts(value, files) for value in part]
    return files.get(part, part) if isinstance(part, str) else part
