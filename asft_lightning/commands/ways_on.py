"""What to type next: the last lines of every command that leaves something to go on with."""

import shlex
from pathlib import Path

from asft_lightning.runs.folder import RunFolder


def line(*words: str | Path) -> str:
    """A line to type.

    >>> line("chat", Path("my runs/protect"))
    "asft-lightning chat 'my runs/protect'"
    """
    return f"asft-lightning {shlex.join(map(str, words))}"


def after_training(run: Path) -> list[str]:
    """From a run's folder with an adapter in it."""
    return [
        f"to talk to it: {line('chat', run)}",
        f"to serve it: {line('serve', run)}",
        f"to share it: {line('export', run, 'my-model', '--merged')}",
    ]


def after_talk(run: str) -> list[str]:
    """From a conversation with a run's model."""
    return [
        f"to ask it a file of prompts: {line('generate', run, 'prompts.jsonl', 'answers.jsonl')}",
        f"to share it: {line('export', run, 'my-model', '--merged')}",
    ]


def after_answers(run: str, prompts: str, output: Path, has_both: bool) -> list[str]:
    """From a file of a run's answers.

    Args:
        run: The run's folder, as it was given.
        prompts: What was asked, likewise.
        output: The file.
        has_both: Whether it has the answers of the model before as well.
    """
    both = output.with_name(f"{output.stem}-both{output.suffix}")
    beside = f"to see them beside the model before: {line('generate', run, prompts, both, '--adapter', 'both')}"
    return [*([] if has_both else [beside]), f"to ask more: {line('chat', run)}"]


def after_export(target: Path, aligned: str, merged: bool) -> list[str]:
    """From an exported adapter or model.

    Args:
        target: Its folder.
        aligned: What it was fine-tuned from.
        merged: Whether it is a whole model.
    """
    whole = f"to load it: AutoModelForCausalLM.from_pretrained({str(target)!r}), of transformers"
    part = f"to load it: PeftModel.from_pretrained(model, {str(target)!r}), of peft; model is {aligned}"
    return [whole if merged else part, f"to publish it: {shlex.join(['hf', 'upload', f'YOU/{target.name}', str(target)])}"]


def after_projection(adapter: Path, target: Path) -> list[str]:
    """From a repaired adapter; a line to type where the adapter lies in the folder of the run that made it."""
    config = RunFolder(adapter.parent).config
    if not config.is_file():
        return ["to see what it costs, score it: docs/finished-adapter.md has the file for asft-lightning test"]
    words: list[str | Path] = ["test", "--config", config, "--model.init_args.adapter", target]
    return [f"to score it: {line(*words, '--trainer.default_root_dir', f'{target}-scored')}"]


def after_anchors(file: str | Path) -> list[str]:
    """From a file of anchors."""
    return [
        f"to train with them add to fit: --model.anchor_file {shlex.quote(str(file))}",
        f"to measure an adapter against them: {line('anchors', 'diff', file, 'ADAPTER')}",
    ]
