"""``asft-lightning export``: what a run trained, to share or to serve, with what it was measured at."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel
from rich.console import Console
from transformers import AutoTokenizer

from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.files import require_absent, whole_folder, write_atomically
from asft_lightning.weights.pretrained import Pretrained

_CARD = """---
{header}---
# {title}
{what} It was fine-tuned from `{aligned}` by asft-lightning with `{method}`{strength}, on {rows} rows of which {harmful}
were harmful.

{secret}## Measured on the run that made it
{table}

The answers behind these figures are in the run's `generations/`. A harmful score is that of its prompts and its judge:
measure your own before you rely on it.
"""

_SECRET = """**It was measured under the secret prompt that it was trained with, and is safe under that alone**: serve it so.

"""


def export(run: str, output: str, merged: bool = False) -> None:
    """Write a finished run's adapter, or the model with it merged in, with the tokenizer and a model card.

    Args:
        run: The run's folder.
        output: The folder to write, which must not be there yet.
        merged: The whole model with the update added to its weights, in place of an adapter.
    """
    folder, target = Path(run), Path(output)
    adapter, summary, config = folder / "adapter", _read(folder, "summary.json"), _read(folder, "config.yaml")
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ConfigurationError(
            f"export needs a finished run, and {adapter} holds no adapter. Add AdapterCheckpoint to it."
        )
    require_absent(target)
    pretrained = Pretrained(**config["pretrained"])
    whole = replace(pretrained, load_in_4bit=False).load_model()  # what it was trained on, before it was rounded
    model = PeftModel.from_pretrained(whole, str(adapter))
    with whole_folder(target) as new:
        (model.merge_and_unload() if merged else model).save_pretrained(new)
        AutoTokenizer.from_pretrained(adapter).save_pretrained(new)
        secret = bool((config.get("template") or {}).get("secret"))
        write_atomically(new / "README.md", card(folder.name, pretrained.origin[0], summary, merged, secret))
    Console().print(f"written to {target}", highlight=False, markup=False)


def card(title: str, aligned: str, summary: dict[str, Any], merged: bool, secret: bool = False) -> str:
    """A model card in the hub's format.

    Args:
        title: Name of the model.
        aligned: What it was fine-tuned from.
        summary: The content of the run's ``summary.json``.
        merged: Whether it is a whole model.
        secret: Whether it was trained with a secret prompt (BEA), which does not stand in the card.
    """
    run = summary.get("run", {})
    header = {"base_model": aligned, "library_name": "transformers" if merged else "peft", "tags": ["asft", "safety"]}
    strength = f", λ = {run['lambda_reg']:g}" if run.get("lambda_reg") is not None else ""
    return _CARD.format(
        header=yaml.safe_dump(header, sort_keys=False),
        title=title,
        what="This is a whole model." if merged else "This is a LoRA adapter.",
        aligned=aligned,
        method=_method(run),
        strength=strength,
        rows=run.get("rows", "an unknown number of"),
        harmful=run.get("harmful_rows", "?"),
        secret=_SECRET if secret else "",
        table=_table({name: entry for name, entry in summary.items() if name != "run"}),
    )


def _method(run: dict[str, Any]) -> str:
    """What it was trained by, and how it was projected afterwards, where it was."""
    projection = (run.get("projection") or {}).get("class")
    return f"{run.get('method', 'an unknown method')}" + (f", then {projection}" if projection else "")


def _table(scores: dict[str, dict[str, Any]]) -> str:
    measured = {name: entry for name, entry in scores.items() if entry.get("after") is not None}
    if not measured:
        return "**Nothing was measured: neither its harmful score nor its accuracy is known.**"
    lines = ["| percent | before | after | 95 % interval after |", "|---|---|---|---|"]
    for name, entry in measured.items():
        before, interval = entry.get("before"), entry.get("interval", {}).get("after")
        first = "–" if before is None else f"{before:.1f}"
        reach = "–" if interval is None else f"{interval[0]:.1f} – {interval[1]:.1f}"
        lines.append(f"| {name} | {first} | {entry['after']:.1f} | {reach} |")
    return "\n".join(lines)


def _read(folder: Path, name: str) -> dict[str, Any]:
    """A file of the run, as plain data."""
    try:
        text = (folder / name).read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"export needs a run of `asft-lightning fit`, and {folder / name} cannot be read ({type(error).__name__}). "
            "Give the run's folder."
        ) from error
    return content
