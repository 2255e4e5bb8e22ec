"""What TRL's trainers bring along: chats that they write, models that they load and adapt, other losses."""

import pytest
from datasets import Dataset
from kit import tiny
from kit.trainers import Run, SafeSFTTrainer, size_of_update, weights_of
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from asft_lightning import Answers, Gram, Shrinkage, Template
from asft_lightning.integrations import AsFTTrainer


@pytest.fixture
def run(pretrained, tmp_path):
    return Run(pretrained, tmp_path)


@pytest.fixture
def answers(tmp_path):
    return Answers(tiny.unsafe_prompts(tmp_path), max_new_tokens=4)


def test_chats_of_sft_are_written_as_prompts_are(run, answers):
    """What is asked and held is asked as it is trained."""
    prompts = [row["instruction"] for row in tiny.benign_rows(3)]
    yes = [{"role": "assistant", "content": "yes"}]
    chat = [{"prompt": [{"role": "user", "content": prompt}], "completion": yes} for prompt in prompts]
    trainer = run.trainer(SafeSFTTrainer, train_dataset=Dataset.from_list(chat), answers=answers)
    for prompt, row in zip(prompts, trainer.train_dataset, strict=True):
        ids = Template().prompt_ids(tiny.tiny_tokenizer(), prompt)
        assert list(row["input_ids"][: len(ids)]) == ids
        labels = trainer.data_collator([row])["labels"][0].tolist()
        assert set(labels[: len(ids)]) == {-100} and labels[len(ids)] != -100


def test_a_model_that_sft_loads_and_adapts_itself(run, answers):
    settings = {"model": run.pair.aligned, "peft_config": LoraConfig(**run.lora), "processing_class": None}
    trainer = run.trainer(SafeSFTTrainer, **settings, anchors=[Gram()], base=run.pair.base, answers=answers)
    trainer.train()
    assert trainer.state.log_history[-2]["penalty"] > 0 < trainer.state.log_history[-2]["answer_divergence"]


class SafeDPOTrainer(AsFTTrainer, DPOTrainer):
    """Another trainer of TRL."""


def test_preferences_are_trained_on_held_as_well(run, answers):
    said = [{"prompt": r["instruction"], "chosen": r["output"], "rejected": "no"} for r in tiny.benign_rows(8)]
    sizes = []
    for strength in (1e-9, 1e3):
        args = DPOConfig(
            str(run.folder / "dpo"), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
            per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-2, num_train_epochs=3,
        )  # fmt: skip
        holds = {"anchors": [Shrinkage()], "lambda_reg": strength, "answers": answers}
        model, rows = run.model(), Dataset.from_list(said)
        trainer = SafeDPOTrainer(model, args=args, train_dataset=rows, processing_class=tiny.tiny_tokenizer(), **holds)
        trainer.train()
        sizes.append(size_of_update(weights_of(model)))
    assert 0 < sizes[1] < sizes[0] / 2
