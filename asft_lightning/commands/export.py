"""``asft-lightning export``: what a run trained, to share or to serve, with what it was measured at."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from peft import PeftModel

from asft_lightning.chat.template import Template
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation import end_ids
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.summary import RunFacts, Score, Summary
from asft_lightning.runtime.files import require_absent, user_path, whole_folder, write_atomically
from asft_lightning.runtime.terminal import as_markdown, markdown, markdown_code, say
from asft_lightning.runtime.yaml_files import read_yaml
from asft_lightning.weights.loading import load_adapter, load_tokenizer
from asft_lightning.weights.merging import logits_of, merge, require_same_logits
from asft_lightning.weights.pretrained import Pretrained

T = TypeVar("T")

EXAMPLES = ("export runs/quickstart my-adapter", "export runs/quickstart my-model --merged=true")

_CARD = """---
{header}---
# {title}
{what} It was fine-tuned from {aligned} by asft-lightning with {method}{strength}, on {rows} rows of which {harmful}
were harmful.

{secret}## Measured on the run that made it
{table}

The answers behind these figures are in the run's `generations/`. A harmful score is that of its prompts and its judge:
measure your own before you rely on it.
"""

_PROBE = "How do I bake a cake? First heat the oven, then mix flour, sugar and two eggs."

_SECRET = """**It was measured under the secret prompt that it was trained with, and is safe under that alone**: serve it so.

"""


def export(run: str, output: str, merged: bool = False, trust_remote_code: bool = False) -> None:
    """Write a finished run's adapter, or the model with it merged in, with the tokenizer and a model card.

    A merged model is loaded again and must say what the model with its adapter says, or nothing is written.

    Args:
        run: The run's folder.
        output: The folder to write, which must not be there yet.
        merged: The whole model with the update added to its weights, in place of an adapter.
        trust_remote_code: Run Python code that comes with the checkpoint; what the run's own config says does not count.
    """
    folder, target = RunFolder(user_path(run)), user_path(output)
    config = _read_config(folder)
    if not (folder.adapter / "adapter_model.safetensors").is_file():
        raise ConfigurationError(
            f"export needs a finished run, and {folder.adapter} holds no adapter. Add AdapterCheckpoint to it."
        )
    require_absent(target)
    pretrained = replace(_part(folder, config, "pretrained", Pretrained), trust_remote_code=trust_remote_code)
    exact = replace(pretrained, load_in_4bit=False).load_model()  # what it was trained on, before it was rounded
    model = load_adapter(exact, str(folder.adapter), pretrained.origin[0])
    model.peft_config["default"].base_model_name_or_path = pretrained.origin[0]
    template = _part(folder, {"template": {}} | config, "template", Template)
    tokenizer = load_tokenizer(str(folder.adapter))
    text = card(folder.path.name, pretrained.origin[0], Summary.read(folder), merged, has_secret=bool(template.secret))
    # Of a whole model its generation_config.json: whoever serves it stops where its rows ended.
    exact.generation_config.eos_token_id = end_ids(exact, tokenizer, [template.end(tokenizer).token_id])
    with whole_folder(target) as new:
        if merged:
            _write_merged(model, new, pretrained, tokenizer(_PROBE)["input_ids"])
        else:
            model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        write_atomically(new / "README.md", text)
    say(f"written to {target}")


COMMAND = export


def _write_merged(model: PeftModel, folder: Path, pretrained: Pretrained, ids: list[int]) -> None:
    """The model that is loaded from the files must be the one that was trained: tied weights are in them once."""
    expected = logits_of(model, ids)
    plain, untied = merge(model)
    plain.save_pretrained(folder)
    written = replace(pretrained, aligned=str(folder), revision=None, start="aligned", load_in_4bit=False).load_model()
    require_same_logits(written, logits_of(written, ids), expected)
    if untied:
        say(f"{', '.join(untied)}: trained apart from the weight it was tied to, and therefore no longer tied")


def card(title: str, aligned: str, summary: Summary, is_merged: bool, has_secret: bool = False) -> str:
    """A model card in the hub's format.

    Args:
        title: Name of the model.
        aligned: What it was fine-tuned from.
        summary: What the run measured.
        is_merged: Whether it is a whole model.
        has_secret: Whether it was trained with a secret prompt (BEA), which does not stand in the card.
    """
    run = summary.run
    header = {"base_model": aligned, "library_name": "transformers" if is_merged else "peft", "tags": ["asft", "safety"]}
    return _CARD.format(
        header=yaml.safe_dump(header, sort_keys=False),
        title=markdown(title),
        what="This is a whole model." if is_merged else "This is a LoRA adapter.",
        aligned=markdown_code(aligned),
        method=markdown_code(_method(run)),
        strength="" if run.lambda_reg is None else f", λ = {run.lambda_reg:g}",
        rows="an unknown number of" if run.rows is None else run.rows,
        harmful="?" if run.harmful_rows is None else run.harmful_rows,
        secret=_SECRET if has_secret else "",
        table=_table(summary.scores),
    )


def _method(run: RunFacts) -> str:
    """What it was trained by, and how it was projected afterwards, where it was."""
    projection = (run.projection or {}).get("class")
    return f"{run.method or 'an unknown method'}" + (f", then {projection}" if projection else "")


def _table(scores: Mapping[str, Score]) -> str:
    measured = {name: score for name, score in scores.items() if score.after is not None}
    if not measured:
        return "**Nothing was measured: neither its harmful score nor its accuracy is known.**"
    rows = []
    for name, score in measured.items():
        interval = score.interval(Moment.AFTER)
        reach = "–" if interval is None else f"{interval[0]:.1f} – {interval[1]:.1f}"
        rows.append([name, "–" if score.before is None else f"{score.before:.1f}", f"{score.after:.1f}", reach])
    return as_markdown(["percent", "before", "after", "95 % interval after"], rows)


def _part(folder: RunFolder, config: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """A part of the run's configuration; the same parser reads it that read it for the run."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, key)
    try:
        parsed = parser.parse_object({key: config.get(key)})
        part: T = parser.instantiate(parsed)[key]
    except (ArgumentError, ValueError, TypeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            f"export needs the run's settings, and `{key}` of {folder.config} is none ({cause}). Give the run's folder."
        ) from error
    return part


def _read_config(folder: RunFolder) -> dict[str, Any]:
    """The run's configuration, as plain data."""
    config = read_yaml(folder.config, "Give the folder of a run of `asft-lightning fit`.")
    if not isinstance(config, dict) or not isinstance(config.get("template") or {}, dict):
        raise ConfigurationError(
            f"export needs a run of `asft-lightning fit`, and {folder.config} is no configuration. Give the run's folder."
        )
    if not folder.summary.is_file():
        raise ConfigurationError(
            f"export needs a run of `asft-lightning fit`, and {folder.summary} is not there. Give the run's folder."
        )
    return config
