"""What Transformers and PEFT load, with one clear error where a checkpoint is not what it should be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from asft_lightning.errors import AsFTError, ConfigurationError
from asft_lightning.runtime.reading import UNREADABLE, is_finite, unreadable
from asft_lightning.weights.adapter_safety import require_harmless
from asft_lightning.weights.files import find_file, require_sound, unpickle
from asft_lightning.weights.locations import resolve, unreachable
from asft_lightning.weights.template_safety import require_bounded

T = TypeVar("T")

_OWN_CODE = (
    "{location} comes with Python code of its own, which is not run. Take a model that Transformers knows; or read that "
    "code, and if you trust it set trust_remote_code to true, under `pretrained` in a config or on export's command line "
    "(of judges no code is ever run)."
)


def load_pretrained(
    from_pretrained: Callable[..., T], location: str, revision: str | None = None, what: str = "weights", **settings: Any
) -> T:
    """What ``from_pretrained`` makes of a checkpoint: a configuration, a tokenizer, a model.

    Args:
        from_pretrained: Of one of Transformers' or PEFT's classes.
        location: Hub id, directory, or ``sandbox:`` part.
        revision: On the hub.
        what: What it is, as an error calls it.
        settings: Further arguments.

    Raises:
        ConfigurationError: If it cannot be had, is damaged, or would need code of its own.
    """
    place = resolve(location)
    try:
        return from_pretrained(place, revision=revision, **settings)
    except AsFTError:  # one of ours says what is wrong
        raise
    except (OSError, ValueError) as error:  # mostly Transformers' own words
        raise _refused(location, place, error) from error
    except Exception as error:  # whatever its code makes of a file that is not what it should be
        raise unreadable(location, error, what) from error


def load_tokenizer(location: str, revision: str | None = None, **settings: Any) -> PreTrainedTokenizerBase:
    """A tokenizer, with a chat template that is safe to use, if any.

    Args:
        location: Hub id, directory, or ``sandbox:`` part.
        revision: On the hub.
        settings: Further arguments of ``AutoTokenizer.from_pretrained``.

    Raises:
        ConfigurationError: As :func:`load_pretrained` and :func:`~asft_lightning.weights.template_safety.require_bounded`.
    """

    def tried(place: str, **how: Any) -> PreTrainedTokenizerBase:
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, **how)
            tokenizer("a")  # some settings of a wrong type show only when it is used
        except Exception as error:
            if type(error) is Exception:  # all that its backend raises
                raise RuntimeError(error) from error
            raise
        return tokenizer

    settings = {"trust_remote_code": False} | settings  # left out, Transformers would ask who types, or what is piped in
    tokenizer = load_pretrained(tried, location, revision, "a tokenizer", **settings)
    require_bounded(tokenizer, location)
    return tokenizer


def load_padding_tokenizer(location: str, revision: str | None = None, **settings: Any) -> PreTrainedTokenizerBase:
    """:func:`load_tokenizer`, with a pad token.

    Args:
        location: As of :func:`load_tokenizer`.
        revision: As of :func:`load_tokenizer`.
        settings: As of :func:`load_tokenizer`.

    Raises:
        ConfigurationError: As :func:`load_tokenizer`; or if it has no token to pad with.
    """
    tokenizer = load_tokenizer(location, revision, **settings)
    if tokenizer.pad_token is None:  # padding is neither attended to nor learnt: any special token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ConfigurationError(
            f"a tokenizer must have a pad, end, start or unknown token, and that of {location!r} has none. "
            "Set pad_token in its tokenizer_config.json."
        )
    return tokenizer


def load_adapter(model: PreTrainedModel, adapter: str, aligned: str) -> PeftModel:
    """``model`` with a trained adapter, to go on from.

    Args:
        model: The aligned model.
        adapter: Directory or hub id of the adapter.
        aligned: What the model was loaded from.

    Raises:
        ConfigurationError: If the adapter cannot be had, is damaged, or does not fit the model.
    """
    require_harmless(load_pretrained(PeftConfig.from_pretrained, adapter), adapter)
    folder = Path(resolve(adapter))
    if folder.is_dir():
        require_sound(folder)
        if (file := folder / find_file(folder)).suffix == ".bin":
            unpickle(file)
    try:
        adapted: PeftModel = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except UNREADABLE as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise ConfigurationError(f"adapter {adapter} does not fit {aligned}: {cause}") from error
    _require_same_factors(adapted, folder, adapter)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and not is_finite(parameter):
            raise ConfigurationError(f"{name}: an adapter must be finite, but {adapter} holds NaN or Inf. Train it again.")
    return adapted


def _require_same_factors(adapted: PeftModel, folder: Path, adapter: str) -> None:
    """Refuse a file with fewer or other factors than the adapter has: PEFT leaves those as drawn, and only tells."""
    expected = {name for name in get_peft_model_state_dict(adapted, save_embedding_layers=False) if "lora_" in name}
    there = {name for name in load_peft_weights(str(folder), device="cpu") if "lora_" in name}
    if expected != there:
        lacking, others = sorted(expected - there), sorted(there - expected)
        difference = f"lacks {shown(lacking)}" if lacking else f"holds {shown(others)} beside them"
        raise ConfigurationError(
            f"an adapter must hold the factors that its adapter_config.json tells of, and {adapter} {difference}. Get both "
            "files of one version, for the model that it was trained on."
        )


def shown(names: list[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _refused(location: str, place: str, error: Exception) -> ConfigurationError:
    if "trust_remote_code" in str(error):
        return ConfigurationError(_OWN_CODE.format(location=location))
    if not Path(place).is_dir():
        return unreachable(location, error)
    cause = " ".join(str(error).split())[:200]
    return ConfigurationError(f"{location} must be a whole checkpoint, and cannot be loaded ({cause}). Get it again.")
