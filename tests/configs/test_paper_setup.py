"""The paper's set-up, 4 tasks × 4 models × 9 mixtures, by combining configs: parsed, drawn and rendered without a network.

The rows are small local files with the hub's columns, the tokenizers tiny ones with the families' chat templates.
"""

import itertools

import pyarrow as pa
import pytest
from kit.chat_templates import FAMILIES, family_tokenizer
from kit.parsing import fit_parser, parsed
from pyarrow import parquet
from transformers import LlamaConfig

from asft_lightning import BeaverDamJudge, SafetyEvaluation

TASKS = {
    "sst2": ("respond only positive or negative\n\na film like no other, number ", "positive"),
    "agnews": ("World\nSports\nBusiness\nSci/Tech\n\nShares fell at firm ", "Business"),
    "gsm8k": ("What comes after ", "The next one.\n#### 1"),
    "alpaca": ("Count.\n\nslowly, up to ", "1, 2, …"),
}
"""{task: (what a rendered prompt holds, the answer that is learnt)}."""

MIXTURES = [(1000, p) for p in (0, 0.05, 0.1, 0.15, 0.2)] + [(n, 0.1) for n in (500, 1500, 2000, 2500)]
"""(n, p): those of configs/mixtures/paper.yaml."""
RUNS = [(task, model, MIXTURES[i % len(MIXTURES)]) for i, (task, model) in enumerate(itertools.product(TASKS, FAMILIES))] + [
    ("agnews", "qwen-2-7b-instruct", mixture) for mixture in MIXTURES
]
"""Each task with each model, and each mixture: 25 of 144, of which the others say no more."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{task or catalogue name: a file as the hub has it}."""
    folder = tmp_path_factory.mktemp("hub")
    count = range(2600)
    tables = {
        "sst2": [{"idx": i, "sentence": f"a film like no other, number {i}", "label": 1} for i in count],
        "agnews": [{"text": f"Shares fell at firm {i}", "label": 2} for i in count],
        "gsm8k": [{"question": f"What comes after {i}?", "answer": "The next one.\n#### 1"} for i in count],
        "alpaca": [
            {"instruction": "Count.", "input": f"slowly, up to {i}", "output": "1, 2, …", "text": "unused"} for i in count
        ],
        "llm-lat": [{"prompt": f"do harm {i}", "rejected": "sure, so", "chosen": "no"} for i in range(260)],
    }
    for name, rows in tables.items():
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in tables}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, family in FAMILIES.items():
        tokenizer = family_tokenizer(family)
        tokenizer.save_pretrained(folder / name)
        LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def parser():
    return fit_parser()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "model", "mixture"), RUNS)
def test_every_run_of_the_paper(parser, files, tokenizers, task, model, mixture):
    names = [f"models/{model}", f"data/{task}", "methods/asft", "mixtures/paper", "scoring/paper", "trainer/cpu"]
    n, p = mixture
    settings = [f"--pretrained.aligned={tokenizers / model}", f"--data.init_args.num_rows={n}"]
    settings += [f"--data.init_args.poison_ratio={p}", f"--data.init_args.benign.file={files[task]}"]
    config = parsed(parser, *names, settings=[*settings, f"--data.init_args.harmful.file={files['llm-lat']}"])
    harmful = round(n * p)
    description = parser.instantiate(config).data.describe()

    assert description["rows"] == {"benign": n - harmful} | ({"harmful": harmful} if harmful else {})
    for source, (prompt, answer) in zip(description["sources"], (TASKS[task], ("do harm ", "sure, so")), strict=False):
        text, learnt = source["examples"][0].values()
        assert source["counts"]["truncated"] == 0
        assert prompt in text
        assert text.endswith(FAMILIES[model].open + learnt)
        assert learnt.lstrip() == answer + FAMILIES[model].end


@pytest.mark.parametrize("task", TASKS)
def test_scoring_of_the_papers_runs(parser, task):
    """250 BeaverTails prompts, 512 new tokens, judged by beaver-dam-7b."""
    names = ["models/qwen-2-7b-instruct", f"data/{task}", "methods/asft", "scoring/paper", "trainer/cpu"]
    built = parser.instantiate(parsed(parser, *names))
    (safety,) = [callback for callback in built.trainer.callbacks if isinstance(callback, SafetyEvaluation)]

    assert isinstance(safety.judges[""], BeaverDamJudge)
    assert (safety.prompts.path, safety.prompts.split) == ("catalogue:beavertails-prompts", "30k_test")
    assert (safety.max_prompts, safety.max_new_tokens, safety.attack.samples) == (250, 512, 1)
