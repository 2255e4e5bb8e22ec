"""JudgeTrainer: a causal LM with LoRA and a whole encoder learn; what is saved is a judge, and plain Transformers."""

import json

import pytest
import torch
from kit import tiny
from kit.judges import LABELS, judge_trainer, labelled_data, labelled_source, save_encoder
from kit.tiny import tiny_trainer, trained_weights
from lightning import seed_everything
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from asft_lightning import ClassifierJudge, ConfigurationError, JudgeCheckpoint, LoRAFineTuner
from asft_lightning.errors import DataError
from asft_lightning.evaluation.judges.judged_text import JudgePreset

PROMPTS = ["how 1", "how 2", "how 3", "how 4"]
ANSWERS = ["take the lock", "use the card", "lock and card", "no"]
KINDS = [("theft",), ("fraud",), ("theft", "fraud"), ()]
LORA = {**tiny.LORA, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}


def slow_adamw(parameters):
    """For all weights at once."""
    return torch.optim.AdamW(parameters, lr=3e-3)


def fitted(module, folder, data=None, epochs=12, **settings):
    """The module after a fit, and what was logged last."""
    seed_everything(0, verbose=False)
    trainer = tiny_trainer(folder, max_epochs=epochs, callbacks=[JudgeCheckpoint()], **settings)
    trainer.fit(module, labelled_data(folder) if data is None else data)
    return trainer, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory, pretrained):
    """A causal LM with LoRA, trained: module, trainer, what was logged, and the run's folder."""
    folder = tmp_path_factory.mktemp("judge")
    module = judge_trainer(pretrained, lora=LORA, contrastive="JSCL", alpha=0.001)
    trainer, logged = fitted(module, folder, labelled_data(folder, test=labelled_source(folder, "test", 12)))
    return module, trainer, logged, folder


def test_it_learns_and_logs(run):
    _, _, logged, _ = run
    assert logged["val/macro_f1"] == logged["val/micro_f1"] == logged["val/jaccard"] == 1.0
    assert logged["val/auroc/theft"] == logged["val/auroc/fraud"] == 1.0
    assert logged["val/task_loss"] < 0.3


def test_test_is_at_the_chosen_thresholds(run):
    module, trainer, _, _ = run
    chosen = module.thresholds.clone()
    (scores,) = trainer.test(module, trainer.datamodule, verbose=False)
    assert scores["test/macro_f1"] == 1.0
    module.thresholds = torch.full((2,), 1.0)
    (none,) = trainer.test(module, trainer.datamodule, verbose=False)
    module.thresholds = chosen
    assert none["test/macro_f1"] == 0.0 and none["test/auroc/theft"] == 1.0


def test_saved_folder_is_a_judge_in_one_line(run):
    module, _, _, folder = run
    verdicts = ClassifierJudge(str(folder / "judge"), device="cpu")(PROMPTS, ANSWERS)

    assert [verdict.categories for verdict in verdicts] == KINDS
    assert [verdict.unsafe for verdict in verdicts] == [True, True, True, False]
    config = json.loads((folder / "judge" / "config.json").read_text())
    assert config["judge"]["text"] == "{prompt}: {answer}" and config["judge"]["max_length"] == 64
    assert config["judge"]["thresholds"] == pytest.approx(dict(zip(LABELS, module.thresholds.tolist(), strict=True)))


def test_saved_folder_is_plain_transformers(run):
    module, _, _, folder = run
    model = AutoModelForSequenceClassification.from_pretrained(folder / "judge").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "judge")
    texts = [f"{prompt}: {answer}" for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = module.model.eval()(**batch).logits
        torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    (scores,) = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)([texts[0]])
    assert {score["label"]: score["score"] for score in scores} == pytest.approx(
        dict(zip(LABELS, expected[0].sigmoid().tolist(), strict=True)), abs=1e-4
    )


def test_thresholds_of_the_folder_give_way_to_a_setting(run):
    _, _, _, folder = run
    assert not any(v.unsafe for v in ClassifierJudge(str(folder / "judge"), threshold=1.0, device="cpu")(PROMPTS, ANSWERS))


def test_a_whole_encoder_learns(tmp_path):
    settings = {"class_weights": "balanced", "contrastive": "SLCL", "alpha": 0.001, "optimizer": slow_adamw}
    module = judge_trainer(save_encoder(tmp_path / "bert"), **settings)
    _, logged = fitted(module, tmp_path, epochs=20)
    verdicts = ClassifierJudge(str(tmp_path / "judge"), device="cpu")(PROMPTS, ANSWERS)

    assert logged["val/macro_f1"] == 1.0
    assert [verdict.categories for verdict in verdicts] == KINDS
    assert all(parameter.requires_grad for parameter in module.model.parameters())


def test_all_that_is_new_is_trained_beside_an_adapter(tmp_path):
    module = judge_trainer(
        save_encoder(tmp_path / "bert"), lora={"r": 4, "target_modules": ["query", "value"]}, labels=LABELS
    )
    module.configure_model()
    saved = "modules_to_save.default"
    assert {name.removeprefix("model.base_model.model.") for name in trained_weights(module) if "lora_" not in name} == {
        f"classifier.{saved}.weight", f"classifier.{saved}.bias",
        f"bert.pooler.{saved}.dense.weight", f"bert.pooler.{saved}.dense.bias",
    }  # fmt: skip


@pytest.mark.parametrize("is_encoder", [False, True])
@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_learns_in_half_precision(tmp_path, pretrained, is_encoder, is_whole, precision):
    adapter = {"r": 4, "target_modules": ["query", "value"]} if is_encoder else LORA
    model = save_encoder(tmp_path / "bert") if is_encoder else pretrained
    module = judge_trainer(model, lora=None if is_whole else adapter)
    data = labelled_data(tmp_path)
    trainer = tiny_trainer(tmp_path, max_steps=1, precision=precision)
    trainer.fit(module, data)
    (scores,) = trainer.validate(module, data, verbose=False)
    assert 0 < scores["val/task_loss"] < 2


@pytest.mark.parametrize("kind", ["SCL", "ICL", "JSCL", "JSPCL", "SLCL"])
def test_every_contrastive_loss_reaches_adapter_and_head(pretrained, tmp_path, kind):
    module = judge_trainer(pretrained, lora=LORA, contrastive=kind, alpha=1.0)
    data = labelled_data(tmp_path, labels=[*LABELS, "other"])  # of two labels in a text each is all that there is to compare
    tiny_trainer(tmp_path, max_steps=1).fit(module, data)
    before = trained_weights(module)
    tiny_trainer(tmp_path, max_steps=2).fit(module, data)
    moved = {name.rsplit(".", 3)[-3] for name, weight in trained_weights(module).items() if not weight.equal(before[name])}
    # What compares hidden states says nothing to the head.
    assert {"lora_A", "lora_B"} <= moved
    assert ("modules_to_save" in moved) == (kind in ("ICL", "JSPCL"))


def test_balanced_weights_are_absent_over_present(pretrained, tmp_path):
    module = judge_trainer(pretrained, lora=LORA, class_weights="balanced")
    data = labelled_data(tmp_path)
    tiny_trainer(tmp_path, max_steps=1).fit(module, data)
    shares = data.shares()
    assert module.loss.positive_weights.tolist() == pytest.approx([max(1.0, (1 - share) / share) for share in shares])


def test_checkpoint_holds_what_was_trained_and_the_thresholds(pretrained, tmp_path):
    module = judge_trainer(pretrained, lora=LORA)
    trainer, _ = fitted(module, tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]

    assert state.keys() == trained_weights(module).keys() | {"thresholds"}
    again = judge_trainer(pretrained, lora=LORA, labels=LABELS)
    again.configure_model()
    again.load_state_dict(state)
    assert again.thresholds.equal(module.thresholds) and not again.thresholds.eq(0.5).all()


def test_a_resumed_run_is_the_same_run(pretrained, tmp_path):
    whole, _ = judge_trainer(pretrained, lora=LORA), None
    fitted(whole, tmp_path / "whole", epochs=2)
    half = judge_trainer(pretrained, lora=LORA)
    trainer, _ = fitted(half, tmp_path / "half", epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest = judge_trainer(pretrained, lora=LORA)
    seed_everything(7, verbose=False)
    tiny_trainer(tmp_path / "half", max_epochs=2).fit(rest, labelled_data(tmp_path), ckpt_path=tmp_path / "half.ckpt")

    for name, weight in trained_weights(whole).items():
        torch.testing.assert_close(trained_weights(rest)[name], weight, rtol=0, atol=0)


def test_without_held_out_rows_thresholds_stay_in_the_middle(pretrained, tmp_path):
    module = judge_trainer(pretrained, lora=LORA)
    fitted(module, tmp_path, labelled_data(tmp_path, val_rows=0), epochs=1)
    assert module.thresholds.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"class_weights": [1.0]}, ConfigurationError, "class_weights must have one for each of the 2 labels, got 1"),
    ({"text": "{prompt}"}, ConfigurationError, "must say where the answer stands"),
    ({"contrastive": "XCL"}, ConfigurationError, "a contrastive loss must be one of SCL, ICL"),
    ({"labels": LABELS[::-1]}, DataError, r"the data's, in order, got \['fraud', 'theft'\] and \['theft', 'fraud'\]"),
    ({"max_length": 8}, DataError, r"leave room for its answer within max_length \(8 tokens\), and 'how "),
])  # fmt: skip
def test_settings_that_cannot_be_used(pretrained, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        tiny_trainer(tmp_path).fit(judge_trainer(pretrained, lora=LORA, **settings), labelled_data(tmp_path))


def test_data_and_module_that_do_not_fit(pretrained, tmp_path):
    with pytest.raises(DataError, match="a judge learns from a LabelledDataModule, got MixtureDataModule"):
        tiny_trainer(tmp_path).fit(judge_trainer(pretrained, lora=LORA), tiny.tiny_data(pretrained, tmp_path))
    trainer = tiny_trainer(tmp_path, callbacks=[JudgeCheckpoint()])
    with pytest.raises(ConfigurationError, match=r"writes what a JudgeTrainer trained, got LoRAFineTuner. Take Adapter"):
        trainer.fit(LoRAFineTuner(pretrained, tiny.LORA), tiny.tiny_data(pretrained, tmp_path))


@pytest.mark.parametrize(
    "said",
    [
        7,
        {},
        {"text": "{prompt}", "max_length": 64, "thresholds": {}},
        {"text": "{answer}", "max_length": 2, "thresholds": {}},
        {"text": "{answer}", "max_length": 64, "thresholds": {"a": 2}},
        {"text": "{answer}", "max_length": 64, "thresholds": [1]},
        {"text": "{answer}", "max_length": float("inf"), "thresholds": {}},
    ],
)
def test_presets_that_are_damaged(said):
    with pytest.raises(ConfigurationError, match=r"somewhere: what its config.json says of the judge must be .*save the"):
        JudgePreset.of(type("Config", (), {"judge": said}), "somewhere")
