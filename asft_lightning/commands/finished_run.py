"""FinishedRun: the folder of a run of ``asft-lightning fit`` that has come to its end, read for a command."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, Self, TypeVar

import torch
from jsonargparse import ArgumentError, ArgumentParser
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.rows import Row, require_text
from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError, DataError
from asft_lightning.evaluation import generate_answers
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.yaml_files import read_yaml
from asft_lightning.weights.adapters_off import without_adapters
from asft_lightning.weights.loading import load_adapter, load_padding_tokenizer
from asft_lightning.weights.pretrained import Pretrained

T = TypeVar("T", Pretrained, Template)
Adapter = Literal["on", "off", "both"]


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder says of it.

    Args:
        folder: The folder.
        pretrained: What was fine-tuned.
        template: How rows were written for it.
    """

    folder: RunFolder
    pretrained: Pretrained
    template: Template

    @classmethod
    def read(cls, run: str, command: str, trust_remote_code: bool = False, needs_adapter: bool = True) -> Self:
        """The run in a folder.

        Args:
            run: The folder.
            command: For whom, as errors name it.
            trust_remote_code: Run Python code that comes with the checkpoint; what the run's own config says does not count.
            needs_adapter: Refuse a run that has trained whole weights.

        Raises:
            ConfigurationError: If it is no run's folder, or the run has left nothing, or no adapter where one is needed.
        """
        folder = RunFolder(user_path(run))
        config = _read_config(folder, command)
        if not (folder.adapter / "adapter_model.safetensors").is_file():
            is_whole = (folder.model / "config.json").is_file()
            if is_whole and needs_adapter:
                raise ConfigurationError(
                    f"{command} is for runs that trained an adapter, and this one trained whole weights. {folder.model} is "
                    "a plain model of Transformers: load, share or serve it as it is."
                )
            if not is_whole:
                raise ConfigurationError(
                    f"{command} needs a finished run, and {folder.adapter} holds no adapter. Add AdapterCheckpoint to it."
                )
        if Summary.read(folder).run.ended is False:
            raise ConfigurationError(
                f"{command} needs a finished run, and the one in {folder.path} was broken off before its end: its adapter "
                f"and figures may be of two moments. Go on with it: fit --config {folder.config} --ckpt_path auto."
            )
        pretrained = replace(_part(folder, config, "pretrained", Pretrained, command), trust_remote_code=trust_remote_code)
        return cls(folder, pretrained, _part(folder, {"template": {}} | config, "template", Template, command))

    def load_model(self, is_exact: bool = False) -> PeftModel:
        """The model that was trained, with its adapter.

        Args:
            is_exact: Put the adapter on the whole weights also where it was trained on 4 bits.
        """
        pretrained = replace(self.pretrained, load_in_4bit=False) if is_exact else self.pretrained
        return load_adapter(pretrained.load_model(), str(self.folder.adapter), self.pretrained.origin[0])

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that lies beside the adapter."""
        return load_padding_tokenizer(str(self.folder.adapter), trust_remote_code=self.pretrained.trust_remote_code)


class Speaker:
    """The model of a finished run, asked: with its adapter, without, or both, the one beside the other.

    Args:
        run: The run.
        adapter: ``on`` for the trained model, ``off`` for what it was trained from, ``both`` for both.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 is greedy.
        batch_size: Prompts a batch.

    Raises:
        ConfigurationError: If a number cannot be.
    """

    def __init__(
        self, run: FinishedRun, adapter: Adapter, max_new_tokens: int, temperature: float = 0.0, batch_size: int = 16
    ) -> None:
        if min(max_new_tokens, batch_size) < 1 or not 0 <= temperature < float("inf"):
            raise ConfigurationError(
                f"max_new_tokens and batch_size must be 1 or more and temperature 0 or more, got {max_new_tokens}, "
                f"{batch_size} and {temperature}. Leave them out."
            )
        self._adapter, self._template, self._tokenizer = adapter, run.template, run.load_tokenizer()
        self._generate = partial(
            generate_answers, max_new_tokens=max_new_tokens, temperature=temperature, batch_size=batch_size
        )
        self._ends = [run.template.end(self._tokenizer).token_id]
        self._model = run.load_model().eval()
        if not run.pretrained.load_in_4bit:  # else it is on its device
            self._model = self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def names(self) -> tuple[str, ...]:
        """Who answers: ``answer``, or ``before`` and ``after``."""
        return ("before", "after") if self._adapter == "both" else ("answer",)

    def answers(self, name: str, rows: Sequence[Row], progress: str | None = None) -> list[str]:
        """The answers to the prompts of rows.

        Args:
            name: Who is asked, of :attr:`names`.
            rows: Prompts, with what was said before; their answers are not looked at.
            progress: Caption of a progress bar; None for no bar.

        Raises:
            DataError: If a prompt has half a character.
        """
        for row in rows:
            try:
                require_text(row.asked())
            except DataError as error:
                raise DataError(f"prompt {row.prompt!r:.60}: {error}.") from error
        prompts = [self._template.prompt_ids(self._tokenizer, row.prompt, row.history) for row in rows]
        is_off = self._adapter == "off" or name == "before"
        with without_adapters(self._model) if is_off else nullcontext():
            return self._generate(self._model, self._tokenizer, prompts, ends=self._ends, progress=progress)


def _part(folder: RunFolder, config: Mapping[str, Any], key: str, kind: type[T], command: str) -> T:
    """A part of the run's configuration; the same parser reads it that read it for the run, but imports nothing for it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, key)
    try:
        settings = config.get(key)
        if not isinstance(settings, Mapping) or not settings.keys() <= {field.name for field in fields(kind)}:
            raise ValueError(f"it must have settings of {kind.__name__} alone")
        parsed = parser.parse_object({key: settings})
        part: T = parser.instantiate(parsed)[key]
    except (ArgumentError, ValueError, TypeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            f"{command} needs the run's settings, and `{key}` of {folder.config} is none ({cause}). Give the run's folder."
        ) from error
    return part


def _read_config(folder: RunFolder, command: str) -> dict[str, Any]:
    """The run's configuration, as plain data."""
    if not folder.config.is_file():
        raise ConfigurationError(
            f"{command} needs the folder of a run of `asft-lightning fit` or `protect`, and {folder.path} is none. Give one "
            "with a config.yaml and a summary.json, e.g. runs/protect."
        )
    config = read_yaml(folder.config, "Give the folder of a run of `asft-lightning fit`.")
    if not isinstance(config, dict) or not isinstance(config.get("template") or {}, dict):
        raise ConfigurationError(
            f"{command} needs a run of `asft-lightning fit`, and {folder.config} is no configuration. Give the run's folder."
        )
    if not folder.summary.is_file():
        raise ConfigurationError(
            f"{command} needs a run of `asft-lightning fit`, and {folder.summary} is not there. Give the run's folder."
        )
    return config
