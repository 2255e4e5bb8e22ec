"""``asft-lightning generate``: a run's answers to a file of prompts."""

import json

from asft_lightning.commands.finished_run import Adapter, FinishedRun, Speaker
from asft_lightning.data import Source
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
        run: The run's folder.
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
    answers = {name: speaker.answers(name, rows, progress=name.capitalize()) for name in speaker.names}
    lines = [
        {"prompt": row.asked()} | {name: said[place] for name, said in answers.items()} for place, row in enumerate(rows)
    ]
    write_atomically(target, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    say(f"{len(rows)} answers written to {target}")


COMMAND = generate
