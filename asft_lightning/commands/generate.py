"""``asft-lightning generate``: a run's answers to a file of prompts."""

import json
from collections.abc import Sequence

from asft_lightning.chat.rows import Row
from asft_lightning.commands.finished_run import Adapter, FinishedRun, Speaker
from asft_lightning.commands.ways_on import after_answers
from asft_lightning.data import Source
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.exits import without_noise
from asft_lightning.runtime.files import require_absent, user_path, write_atomically
from asft_lightning.runtime.terminal import say

EXAMPLES = (
    "generate runs/protect prompts.jsonl answers.jsonl",
    "generate runs/protect catalogue:unsafe-prompts-test answers.jsonl --adapter both",
)


def generate(
    run: str,
    prompts: str,
    output: str,
    adapter: Adapter = "on",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    batch_size: int = 16,
    trust_remote_code: bool = False,
) -> None:
    """Write a run's answers to prompts, a JSON object a line: the prompt, and its answer, or that before and after.

    Args:
        run: The folder of a finished run of protect or fit, e.g. runs/protect.
        prompts: A json, jsonl, csv or parquet file of chats or of instructions, a hub id, or catalogue:NAME.
        output: The file to write, which must not be there yet.
        adapter: ``on`` for the trained model, ``off`` for the one it was trained from, ``both`` for one beside the other.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 always says what is likeliest.
        batch_size: Prompts a batch.
        trust_remote_code: Run Python code that comes with the checkpoint.
    """
    target = user_path(output)
    require_absent(target)
    rows = Source(prompts).load()
    speaker = Speaker(FinishedRun.read(run, "generate", trust_remote_code), adapter, max_new_tokens, temperature, batch_size)
    lines = _answered(speaker, rows)
    write_atomically(target, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    say(f"answers to {len(rows)} prompts: {target}", *after_answers(run, prompts, target, adapter == "both"))


COMMAND = generate


def ask(
    run: RunFolder | str,
    prompts: Sequence[str],
    adapter: Adapter = "on",
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    batch_size: int = 16,
    trust_remote_code: bool = False,
) -> list[dict[str, str]]:
    """A run's answers to prompts, in Python.

    Args:
        run: What :func:`~asft_lightning.protect` gives back, or the run's folder.
        prompts: What a user says.
        adapter: ``on`` for the trained model, ``off`` for the one it was trained from, ``both`` for one beside the other.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 always says what is likeliest.
        batch_size: Prompts a batch.
        trust_remote_code: Run Python code that comes with the checkpoint.

    Returns:
        A mapping a prompt, of ``prompt`` and ``answer``, or ``prompt``, ``before`` and ``after``.

    Raises:
        ConfigurationError: If it is no finished run's folder, or a number cannot be.
    """
    folder = str(run.path) if isinstance(run, RunFolder) else run
    finished = FinishedRun.read(folder, "ask", trust_remote_code)
    with without_noise():  # as on the command line
        speaker = Speaker(finished, adapter, max_new_tokens, temperature, batch_size)
        return _answered(speaker, [Row(prompt, "") for prompt in prompts])


def _answered(speaker: Speaker, rows: Sequence[Row]) -> list[dict[str, str]]:
    """{``prompt``, and each who answers: what} for each row."""
    answers = {name: speaker.answers(name, rows, progress=name.capitalize()) for name in speaker.names}
    return [{"prompt": row.asked()} | {name: said[i] for name, said in answers.items()} for i, row in enumerate(rows)]
