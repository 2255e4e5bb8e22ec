"""asft-lightning export: adapter or merged model, with a card that says what was measured."""

import json
import re
import shutil
from dataclasses import asdict
from math import inf

import pytest
import torch
import yaml
from kit import tiny
from kit.commands import edit
from kit.commands import said as commands_said
from kit.models import tiny_model
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from asft_lightning import AdapterCheckpoint, AsFT, Pretrained, SafetyEvaluation, Source
from asft_lightning.cli import main
from asft_lightning.commands.export import card
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import RunFacts, Summary
from asft_lightning.weights.merging import require_same_logits

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def run(tmp_path_factory, pretrained):
    """A finished run: its folder, and what the trained model says to some tokens."""
    folder = tmp_path_factory.mktemp("export") / "my-run"
    prompts = Source(tiny.write_rows(folder / "unsafe.jsonl", [{"instruction": "how to open safe 1", "output": ""}]))
    module = fine_tuner(AsFT, pretrained, lambda_reg=2.0)
    scorer = SafetyEvaluation(prompts, max_new_tokens=2)
    trainer = tiny_trainer(folder, callbacks=[scorer, AdapterCheckpoint()], max_epochs=3)
    trainer.fit(module, tiny_data(pretrained, folder, batch_size=4))
    checkpoints = {"aligned": pretrained.aligned, "base": pretrained.base}
    (folder / "config.yaml").write_text(yaml.safe_dump({"pretrained": checkpoints}))
    with torch.no_grad():
        return folder, module.model.eval()(input_ids=IDS).logits


def said(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_adapter_with_tokenizer_and_card(run, pretrained, tmp_path, capsys):
    folder, expected = run
    main(["export", str(folder), str(tmp_path / "out")])
    assert f"of peft; model is {pretrained.aligned}\n" in capsys.readouterr().out
    aligned = AutoModelForCausalLM.from_pretrained(pretrained.aligned)
    text = (tmp_path / "out" / "README.md").read_text()

    assert torch.equal(said(PeftModel.from_pretrained(aligned, tmp_path / "out")), expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tiny.CHAT_TEMPLATE
    assert yaml.safe_load(text.split("---")[1]) == {
        "base_model": pretrained.aligned, "library_name": "peft", "tags": ["asft", "safety"]
    }  # fmt: skip
    assert "with `AsFT`, λ = 2, on 16 rows of which 4\nwere harmful" in text
    score = json.loads((folder / "summary.json").read_text())["safety/harmful_score"]
    assert f"| safety/harmful_score | {score['before']:.1f} | {score['after']:.1f} | 20.7 – 100.0 |" in text


def test_merged_model(run, tmp_path, capsys):
    folder, expected = run
    main(["export", str(folder), str(tmp_path / "out"), "--merged"])
    *_, load, publish = capsys.readouterr().out.splitlines()
    assert load == f"to load it: AutoModelForCausalLM.from_pretrained({str(tmp_path / 'out')!r}), of transformers"
    assert publish == f"to publish it: hf upload YOU/out {tmp_path / 'out'}"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    torch.testing.assert_close(said(merged), expected, rtol=1e-4, atol=1e-5)
    assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def tied(tmp_path):
    """Makes a finished run on a model whose output layer is its embeddings; gives the folder and its logits."""

    def run_on(dtype="float32", scale=0.3, **lora):
        pretrained = Pretrained(str(tiny.save_tiny(tmp_path / "tied", 3, tie_word_embeddings=True)), dtype=dtype)
        folder = tmp_path / "run"
        torch.manual_seed(0)
        model = get_peft_model(pretrained.load_model(), LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM"} | lora))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += scale * torch.randn_like(parameter)
        model.save_pretrained(folder / "adapter")
        pretrained.load_tokenizer().save_pretrained(folder / "adapter")
        (folder / "config.yaml").write_text(yaml.safe_dump({"pretrained": asdict(pretrained)}))
        (folder / "summary.json").write_text("{}")
        return str(folder), said(model)

    return run_on


TIED = {
    "lm_head": ({"target_modules": ["q_proj", "lm_head"]}, ["lm_head"]),
    "embed_tokens": ({"target_modules": ["q_proj", "embed_tokens"]}, ["model.embed_tokens"]),
    "both": ({"target_modules": ["lm_head", "embed_tokens"]}, ["model.embed_tokens", "lm_head"]),
    "both, tied": ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, ["model.embed_tokens", "lm_head"]),
    "a head of its own": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, []),
    "neither": ({"target_modules": ["q_proj", "v_proj"]}, []),
}


@pytest.mark.filterwarnings("ignore:Model")  # PEFT, of tied weights
@pytest.mark.parametrize(("lora", "untied"), TIED.values(), ids=TIED)
def test_merged_model_with_tied_weights(tied, tmp_path, capsys, lora, untied):
    folder, expected = tied(**lora)
    main(["export", folder, str(tmp_path / "out"), "--merged=true"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    torch.testing.assert_close(said(merged), expected, rtol=1e-4, atol=1e-4)
    assert (f"{', '.join(untied)}: trained apart" in capsys.readouterr().out) == bool(untied)
    assert merged.config.tie_word_embeddings == (TIED["neither"][0] == lora)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_merged_model_of_another_dtype(tied, tmp_path, dtype):
    folder, expected = tied(dtype, scale=0.1, target_modules=["q_proj", "v_proj"])
    main(["export", folder, str(tmp_path / "out"), "--merged=true"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.dtype == getattr(torch, dtype)
    assert float((said(merged) - expected).double().norm() / expected.double().norm()) < 0.09


@pytest.mark.parametrize("merged", ["false", "true"])
def test_values_that_are_not_finite_are_never_written(tied, tmp_path, capsys, merged):
    folder, _ = tied(target_modules=["q_proj"])

    def spoil(tensors):
        next(iter(tensors.values()))[0, 0] = inf

    edit(tmp_path / "run" / "adapter" / "adapter_model.safetensors", spoil)
    message = commands_said(capsys, "export", folder, str(tmp_path / "out"), f"--merged={merged}")
    assert "q_proj.lora_A.default.weight: an adapter must be finite, but" in message
    assert not (tmp_path / "out").exists()


def test_a_merge_that_overflows_is_never_written(tied, tmp_path, capsys):
    folder, _ = tied("float16", scale=300.0, target_modules=["q_proj"])
    message = commands_said(capsys, "export", folder, str(tmp_path / "out"), "--merged=true")
    assert "q_proj.weight: weights must be finite, and merging made NaN or Inf of this one in torch.float16" in message
    assert not (tmp_path / "out").exists()


def test_logits_that_are_off_are_an_error():
    model, expected = tiny_model("chat", 1), torch.ones(2, 3).double()
    require_same_logits(model, expected * (1 + 3e-4), expected)
    require_same_logits(model.bfloat16(), expected * 1.08, expected)
    with pytest.raises(ConfigurationError, match=r"within 8\.84%, and they are off by 9\.00%\. Export the adapter"):
        require_same_logits(model, expected * 1.09, expected)
    with pytest.raises(ConfigurationError, match=r"off by nan"):
        require_same_logits(model, expected * float("nan"), expected)


def test_card_of_a_run_that_measured_nothing():
    assert "Nothing was measured" in card("x", "org/model", Summary(RunFacts(method="AsFT")), is_merged=False)


def test_card_says_that_the_adapter_was_projected():
    run = RunFacts("LoRAFineTuner", projection={"class": "SafeLoRA", "threshold": 0.5})
    assert "with `LoRAFineTuner, then SafeLoRA`" in card("x", "org/model", Summary(run), is_merged=False)


def test_card_says_the_safety_prompt():
    text = card("x", "org/model", Summary(), is_merged=False, safety_prompt="Be {safe}.")
    assert "measured under this system prompt, and trained without it**: serve it so.\n`Be {safe}.`" in text
    assert "system prompt" not in card("x", "org/model", Summary(), is_merged=False)


def test_card_says_that_there_is_a_secret_prompt_and_not_which():
    assert "measured under the secret prompt" in card("x", "org/model", Summary(), is_merged=False, has_secret=True)
    assert "secret" not in card("x", "org/model", Summary(), is_merged=False)


def test_nothing_of_a_summary_is_markup(tmp_path):
    evil = "<script>alert(1)</script>[x](javascript:y)"
    (tmp_path / "summary.json").write_text(json.dumps({"run": {"method": f"`{evil}`"}, evil: {"after": 1.0}}))
    text = card(evil, f"org/`\n\n{evil}", Summary.read(RunFolder(tmp_path)), is_merged=False).split("---", 2)[2]
    assert "| &lt;script&gt;alert(1)&lt;/script&gt;\\[x\\](javascript:y) | – | 1.0 | – |" in text
    prose = re.sub(r"(?s)(`+) .*? \1", "", text)  # without code, where nothing is markup
    assert "<" not in prose and "[x]" not in prose


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("summary.json", "summary.json is not there"),
        ("config.yaml", "export needs the folder of a run"),
        ("adapter/adapter_model.safetensors", "holds no adapter. Add AdapterCheckpoint to it"),
    ],
)
def test_folders_that_are_no_finished_run(run, tmp_path, capsys, missing, message):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(SystemExit) as exit_info:
        main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["export", "out"], ["chat", "--prompt=hi"]])
def test_a_run_that_went_on_and_was_broken_off(run, tmp_path, capsys, command):
    """What was measured is of the new weights, and the adapter that is there of the old ones."""
    shutil.copytree(run[0], tmp_path / "run")
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    told["run"]["ended"] = False
    (tmp_path / "run" / "summary.json").write_text(json.dumps(told))
    with pytest.raises(SystemExit) as exit_info:
        main([command[0], str(tmp_path / "run"), command[1].replace("out", str(tmp_path / "out"))])
    assert exit_info.value.code == 2
    assert "was broken off before its end" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_that_is_there_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["export", str(run[0]), str(tmp_path)])
    assert "output must not exist yet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_merged_model_stops_where_its_rows_ended(run, tmp_path):
    """Its tokenizer's end token is ``</s>``, and its template ends an answer with another."""
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "adapter")
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("{{ eos_token }}", "<|system|>")
    tokenizer.save_pretrained(folder / "adapter")
    main(["export", str(folder), str(tmp_path / "out"), "--merged=true"])

    ends = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config.eos_token_id
    assert ends == [2, tokenizer.convert_tokens_to_ids("<|system|>")]
