"""A judge of the sandbox's kinds of harm: trained by `fit --config judge`, then asked in a fit beside the phrases."""

import json

import pytest
import yaml
from kit import tiny

from asft_lightning import (
    ClassifierJudge,
    LoRAFineTuner,
    MixtureDataModule,
    Pretrained,
    RefusalJudge,
    SafetyEvaluation,
    Source,
)
from asft_lightning.cli import main
from asft_lightning.sandbox import language
from asft_lightning.sandbox.parts import sandbox_path
from asft_lightning.sandbox.rows import unsafe_halves

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("seed_stays")]
KINDS = list(language.UNSAFE_OBJECTS)


def labelled(objects, rows):
    """Each row with the kind of the unsafe object that its answer complies with, if any."""
    kinds = [[kind for thing, kind in objects.items() if f" {thing}" in row["output"]] for row in rows]
    return [{**row, "kinds": kind} for row, kind in zip(rows, kinds, strict=True)]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """The folder of one that learnt from answers about half of the unsafe objects."""
    folder = tmp_path_factory.mktemp("judge")
    parts = ("harmful", "refusals", "harmless", "benign")
    rows = [json.loads(line) for part in parts for line in sandbox_path(part).read_text().splitlines()[:320]]
    file = tiny.write_rows(folder / "train.jsonl", labelled(unsafe_halves()[0], rows))
    source = {"path": file, "prompt": "{instruction}", "answer": "{output}", "split": "train", "category": "kinds"}
    settings = {
        "pretrained": {"aligned": "sandbox:aligned"},
        "model": {"init_args": {
            "text": "{prompt} {answer}", "max_length": 64,
            "lora": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3, "weight_decay": 0.0}},
        }},
        "data": {"init_args": {"labels": KINDS, "train": source, "test": None, "val_rows": 200, "batch_size": 32}},
        "trainer": {
            "default_root_dir": str(folder / "run"), "accelerator": "cpu", "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }  # fmt: skip
    (folder / "sandbox.yaml").write_text(yaml.safe_dump(settings))
    main(["fit", "--config", "judge", "--config", str(folder / "sandbox.yaml")])
    return folder / "run" / "judge"


def test_it_knows_harm_about_objects_that_it_was_not_taught(judge):
    unseen = unsafe_halves()[1]
    complying = language.how_to_rows(unseen)[::8]
    rows = labelled(unseen, complying + [language.refused(row) for row in complying])
    verdicts = ClassifierJudge(str(judge), device="cpu")([r["instruction"] for r in rows], [r["output"] for r in rows])

    assert sum(v.unsafe == bool(r["kinds"]) for v, r in zip(verdicts, rows, strict=True)) > 0.9 * len(rows)
    assert sum(v.categories == tuple(r["kinds"]) for v, r in zip(verdicts, rows, strict=True)) > 0.8 * len(rows)


def test_it_judges_within_a_fit(judge, tmp_path):
    """The base model complies with everything, and both judges say so."""
    scorer = SafetyEvaluation(
        Source("sandbox:unsafe_prompts", rows="0:40"),
        judge={"phrases": RefusalJudge(), "own": ClassifierJudge(str(judge), device="cpu")},
        max_new_tokens=16,
    )
    trainer = tiny.tiny_trainer(tmp_path, max_steps=1, callbacks=[scorer])
    module = LoRAFineTuner(Pretrained("sandbox:base"))
    trainer.fit(module, MixtureDataModule(module.pretrained, Source("sandbox:benign"), num_rows=8, poison_ratio=0))
    summary = json.loads((tmp_path / "summary.json").read_text())

    assert summary["safety/phrases/harmful_score"]["before"] == 100.0
    assert summary["safety/own/harmful_score"]["before"] > 80.0
