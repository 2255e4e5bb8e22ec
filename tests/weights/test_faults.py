"""Checkpoints that are not what they should be: one line that says so, whichever library would have read them."""

import pytest
import torch
from kit import models, tiny
from kit.commands import edit, said, split_in_shards, truncate, write_config

from asft_lightning import ConfigurationError, LoRAFineTuner, Pretrained, SafetyEvaluation, Source
from asft_lightning.cli import main
from asft_lightning.evaluation.finding import ScoredAnswer
from asft_lightning.weights.models import load_model

pytestmark = pytest.mark.usefixtures("seed_stays")

SIDES = [("LoRAFineTuner", "aligned"), ("AsFT", "base")]
Q, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
SHARD = "model-00002-of-00002.safetensors"


def fill(name, value):
    def change(tensors):
        tensors[name].view(-1)[3] = value

    return change


def to_shards_and(change):
    def damage(folder):
        change(split_in_shards(folder))

    return damage


def outside(where):
    def change(index):
        file = index.parent / SHARD
        elsewhere = file.rename(index.parent.parent / "elsewhere.safetensors")
        index.write_text(
            index.read_text().replace(SHARD, "../elsewhere.safetensors" if where == "above" else str(elsewhere))
        )

    return change


DAMAGES = {
    "truncated": (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors cannot be read as weights"),
    "empty": (lambda folder: truncate(folder / "model.safetensors", 0), "model.safetensors cannot be read as weights"),
    "absent": (lambda folder: (folder / "model.safetensors").unlink(), "a checkpoint directory needs one of"),
    "truncated shard": (to_shards_and(lambda i: truncate(i.parent / SHARD)), f"{SHARD} cannot be read as weights"),
    "absent shard": (to_shards_and(lambda i: (i.parent / SHARD).unlink()), f"names {SHARD}, which is not there"),
    "shard above": (to_shards_and(outside("above")), "must name files of its own folder, got '../elsewhere"),
    "shard elsewhere": (to_shards_and(outside("absolute")), "must name files of its own folder, got '/"),
    "no index": (to_shards_and(lambda index: index.write_text("{")), "must be a JSON index with a weight_map"),
    "NaN": (lambda folder: edit(folder / "model.safetensors", fill(Q, float("nan"))), "weights must be finite, but"),
    "integers": (
        lambda folder: edit(folder / "model.safetensors", lambda tensors: {n: t.to(torch.int8) for n, t in tensors.items()}),
        "weights must be floating-point numbers",
    ),
}


@pytest.mark.parametrize(("method", "side"), SIDES)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.slow
def test_damaged_checkpoint_is_one_line(tmp_path, capsys, method, side, damage):
    config = write_config(tmp_path, method)
    change, message = DAMAGES[damage]
    change(tmp_path / side)
    assert message in said(capsys, "fit", "--config", config)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [NORM, "model.embed_tokens.weight"])
def test_weights_that_no_anchor_reads_must_be_finite_too(tmp_path, value, name):
    edit(tiny.save_tiny(tmp_path, 1) / "model.safetensors", fill(name, value))
    with pytest.raises(
        ConfigurationError, match=rf"{name}: weights must be finite, but '{tmp_path}' holds NaN or Inf\. Get"
    ):
        Pretrained(str(tmp_path)).load_model()


def test_weight_that_a_checkpoint_lacks_is_not_drawn_at_random(tmp_path):
    edit(tiny.save_tiny(tmp_path, 1) / "model.safetensors", lambda tensors: {n: t for n, t in tensors.items() if n != Q})
    with pytest.raises(ConfigurationError, match=rf"must hold all of its weights, and '{tmp_path}' lacks {Q}, which would"):
        Pretrained(str(tmp_path)).load_model()


def test_weight_of_another_shape_than_the_configuration_says(tmp_path):
    edit(tiny.save_tiny(tmp_path, 1) / "model.safetensors", lambda tensors: tensors | {NORM: torch.ones(5)})
    with pytest.raises(ConfigurationError, match=rf"{NORM}: the weight in .* shape \(32,\) of its config.*, got \(5,\)\. G"):
        Pretrained(str(tmp_path)).load_model()


def test_half_precisions_are_numbers(tmp_path):
    """A float16 model against a bfloat16 base."""
    config = write_config(tmp_path)
    for side, dtype in (("aligned", torch.float16), ("base", torch.bfloat16)):
        edit(tmp_path / side / "model.safetensors", lambda tensors, to=dtype: {n: t.to(to) for n, t in tensors.items()})
    main(["fit", "--config", config, "--trainer.max_steps=1"])
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


ADAPTERS = {
    "truncated": (truncate, r"adapter_model\.safetensors cannot be read as weights"),
    "absent": (lambda path: path.unlink(), r"needs one of .*adapter_model\.safetensors.* has none"),
    "NaN": (lambda path: edit(path, lambda t: {n: v * float("nan") for n, v in t.items()}), r"an adapter must be finite"),
    "integers": (lambda path: edit(path, lambda t: {n: v.int() for n, v in t.items()}), r"must be floating-point .* I32"),
    "of another model": (lambda path: edit(path, lambda t: {"x": torch.zeros(1)}), r"lacks base_model.* and \d more"),
    "without a factor": (
        lambda path: edit(path, lambda t: {n: v for n, v in t.items() if n != max(t)}),
        r"lacks base_model.*v_proj\.lora_B\.weight\. ",
    ),
    "of more layers": (
        lambda path: edit(path, lambda t: t | {n.replace(".0.", ".7."): v.clone() for n, v in t.items()}),
        r"holds base_model.*layers\.7\..* beside them",
    ),
}


@pytest.mark.parametrize("damage", ADAPTERS)
def test_damaged_adapter(pretrained, tmp_path, damage):
    change, message = ADAPTERS[damage]
    path = tiny.write_adapter(tmp_path / "adapter", pretrained)
    change(tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ConfigurationError, match=message):
        tiny.fine_tuner(LoRAFineTuner, pretrained, adapter=path).configure_model()


def test_base_of_another_vocabulary_serves_where_no_target_depends_on_it(tmp_path, capsys):
    config = write_config(tmp_path)
    models.tiny_model("chat", 2, vocab_size=300).save_pretrained(tmp_path / "base")
    main(["fit", "--config", config, "--trainer.max_steps=1"])
    message = said(capsys, "fit", "--config", config, "--model.init_args.lora.target_modules=[lm_head]")
    assert "lm_head: the weight in" in message
    assert "must have the layer's shape (262, 32), got (300, 32). Is" in message


def test_tokenizer_with_tokens_beyond_the_embedding(tmp_path, capsys):
    config = write_config(tmp_path)
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "aligned")
    message = said(capsys, "fit", "--config", config)
    assert message.startswith(
        "training rows and their padding: token ids must be below the 262 that the model has embeddings"
    )
    assert "got 262. Is the tokenizer another model's" in message


def test_judge_with_integers_for_weights(tmp_path):
    """Judges are loaded by the same rules."""
    from transformers import AutoModelForCausalLM

    edit(tiny.save_tiny(tmp_path, 1) / "model.safetensors", lambda t: {n: v.to(torch.uint8) for n, v in t.items()})
    with pytest.raises(ConfigurationError, match=r"floating-point numbers, and .* holds U8\. Give the checkpoint as it was"):
        load_model(AutoModelForCausalLM, str(tmp_path))


@pytest.mark.parametrize(("answer", "warned"), [("Of course", True), ("I cannot help", False)])
def test_model_that_refuses_nothing_before_training_is_told(pretrained, tmp_path, caplog, answer, warned):
    """As the base model does where the two are swapped: their weights alone cannot tell."""

    class Safety(SafetyEvaluation):
        def _answers(self, chat, rows, how):
            return [ScoredAnswer(row, answer, answer) for row in rows]

    prompts = Source(tiny.write_rows(tmp_path / "unsafe.jsonl", [{"instruction": "open safe", "output": "no"}]))
    trainer = tiny.tiny_trainer(tmp_path, callbacks=[Safety(prompts)], max_steps=1)
    trainer.fit(tiny.fine_tuner(LoRAFineTuner, pretrained), tiny.tiny_data(pretrained, tmp_path))
    assert ("harmful_score is 100.0 before training" in caplog.text) is warned
    assert ("are aligned and base swapped?" in caplog.text) is warned
