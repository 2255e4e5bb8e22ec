"""The paper's set-up, 4 tasks × 4 models × 9 mixtures, by combining configs: parsed, drawn and rendered without a network.

The rows are small local files with the hub's columns, the tokenizers tiny ones with the families' chat templates.
"""

import pyarrow as pa
import pytest
from chat.test_conversations import family_tokenizer
from configs.test_configs import ROOT, Parsed
from kit.chat_templates import FAMILIES
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

MIXTURES = {
    **{f"p-{p}": (1000, round(1000 * p)) for p in (0, 0.05, 0.1, 0.15, 0.2)},
    **{f"n-{n}": (n, n // 10) for n in (500, 1500, 2000, 2500)},
}
"""{config: (rows, harmful rows among them)}."""


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
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("PL_GLOBAL_SEED", "0")
        yield Parsed(["fit", "--config", "configs/quickstart.yaml"])._subcommand_parsers["fit"]


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_every_run_of_the_paper(parser, files, tokenizers, task, model, mixture):
    parts = {"models": model, "data": task, "methods": "asft", "mixtures": mixture, "scoring": "paper", "trainer": "cpu"}
    config = parser.parse_args(
        [f"--config=configs/{kind}/{name}.yaml" for kind, name in parts.items()]
        + [f"--pretrained.aligned={tokenizers / model}"]
        + [f"--data.init_args.benign.file={files[task]}", f"--data.init_args.harmful.file={files['llm-lat']}"]
    )
    description = parser.instantiate(config).data.describe()
    n, harmful = MIXTURES[mixture]

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
    parts = {"models": "qwen-2-7b-instruct", "data": task, "methods": "asft", "scoring": "paper", "trainer": "cpu"}
    built = parser.instantiate(parser.parse_args([f"--config=configs/{kind}/{name}.yaml" for kind, name in parts.items()]))
    (safety,) = [callback for callback in built.trainer.callbacks if isinstance(callback, SafetyEvaluation)]

    assert isinstance(safety.judges[""], BeaverDamJudge)
    assert (safety.prompts.path, safety.prompts.split) == ("catalogue:beavertails-prompts", "30k_test")
    assert (safety.max_prompts, safety.max_new_tokens, safety.attack.samples) == (250, 512, 1)
