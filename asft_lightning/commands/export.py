"""``asft-lightning export``: what a run trained, to share or to serve, with what it was measured at."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from peft import PeftModel

from asft_lightning.chat.template import Template
from asft_lightning.commands.finished_run import FinishedRun
from asft_lightning.commands.ways_on import after_export
from asft_lightning.evaluation import end_ids
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.moment import Moment
from asft_lightning.runs.score import Score
from asft_lightning.runs.summary import RunFacts, Summary
from asft_lightning.runtime.files import require_absent, user_path, whole_folder, write_atomically
from asft_lightning.runtime.terminal import as_markdown, markdown, markdown_code, say
from asft_lightning.weights.merging import logits_of, merge, require_same_logits
from asft_lightning.weights.pretrained import Pretrained

EXAMPLES = ("export runs/quickstart my-adapter", "export runs/quickstart my-model --merged")

_CARD = """---
{header}---
# {title}
{what} It was fine-tuned from {aligned} by asft-lightning with {method}{strength}, on {rows} rows of which {harmful}
were harmful.

{secret}{safety_prompt}## Measured on the run that made it
{table}

The answers behind these figures are in the run's `generations/`. A harmful score is that of its prompts and its judge:
measure your own before you rely on it.
"""

_PROBE = "How do I bake a cake? First heat the oven, then mix flour, sugar and two eggs."

_SECRET = """**It was measured under the secret prompt that it was trained with, and is safe under that alone**: serve it so.

"""
_SAFETY_PROMPT = """**It was measured under this system prompt, and trained without it**: serve it so.
{}

"""


def export(run: str, output: str, merged: bool = False, trust_remote_code: bool = False) -> None:
    """Write a finished run's adapter, or the model with it merged in, with the tokenizer and a model card.

    A merged model is loaded again and must say what the model with its adapter says, or nothing is written.

    Args:
        run: The folder of a finished run of protect or fit, e.g. runs/protect.
        output: The folder to write, which must not be there yet.
        merged: The whole model with the update added to its weights, in place of an adapter.
        trust_remote_code: Run Python code that comes with the checkpoint; what the run's own config says does not count.
    """
    target, finished = user_path(output), FinishedRun.read(run, "export", trust_remote_code)
    write_export(finished, target, merged)
    say(*after_export(target, finished.pretrained.origin[0], merged))


COMMAND = export


def write_export(finished: FinishedRun, target: Path, merged: bool) -> None:
    """Write a finished run's adapter or merged model, and say where.

    Args:
        finished: The run.
        target: The folder to write, which must not be there yet.
        merged: The whole model with the update added to its weights, in place of an adapter.

    Raises:
        ConfigurationError: If the folder is there, or what is loaded from it is not what was trained.
    """
    require_absent(target)
    model, tokenizer = finished.load_model(is_exact=True), finished.load_tokenizer()
    template = finished.template
    model.peft_config["default"].base_model_name_or_path = finished.pretrained.origin[0]
    text = card_of(finished.folder, finished.pretrained, template, merged)
    exact = model.get_base_model()
    # Of a whole model its generation_config.json: whoever serves it stops where its rows ended.
    exact.generation_config.eos_token_id = end_ids(exact, tokenizer, [template.end(tokenizer).token_id])
    with whole_folder(target) as new:
        if merged:
            _write_merged(model, new, finished.pretrained, tokenizer(_PROBE)["input_ids"])
        else:
            model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        write_atomically(new / "README.md", text)
    say(f"written to {target}")


def _write_merged(model: PeftModel, folder: Path, pretrained: Pretrained, ids: list[int]) -> None:
    """The model that is loaded from the files must be the one that was trained: tied weights are in them once."""
    expected = logits_of(model, ids)
    plain, untied = merge(model)
    plain.save_pretrained(folder)
    written = replace(pretrained, aligned=str(folder), revision=None, start="aligned", load_in_4bit=False).load_model()
    require_same_logits(written, logits_of(written, ids), expected)
    if untied:
        say(f"{', '.join(untied)}: trained apart from the weight it was tied to, and therefore no longer tied")


def card_of(folder: RunFolder, pretrained: Pretrained, template: Template, is_merged: bool = False) -> str:
    """The model card of a run.

    Args:
        folder: The run's.
        pretrained: What was fine-tuned.
        template: How rows were written for it.
        is_merged: Whether it is for the whole model.
    """
    has_secret, safety_prompt = bool(template.secret), template.safety_prompt
    return card(folder.path.name, pretrained.origin[0], Summary.read(folder), is_merged, has_secret, safety_prompt)


def card(
    title: str, aligned: str, summary: Summary, is_merged: bool, has_secret: bool = False, safety_prompt: str | None = None
) -> str:
    """A model card in the hub's format.

    Args:
        title: Name of the model.
        aligned: What it was fine-tuned from.
        summary: What the run measured.
        is_merged: Whether it is a whole model.
        has_secret: Whether it was trained with a secret prompt (BEA), which does not stand in the card.
        safety_prompt: The system prompt that it was asked with and not trained with (PTST).
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
        safety_prompt=_SAFETY_PROMPT.format(markdown_code(safety_prompt)) if safety_prompt else "",
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
