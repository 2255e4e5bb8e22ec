"""Folders of runs and adapters with files that are JSON or YAML and yet not what they should be: one line, no traceback."""

import json
import shutil
import sys

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import tiny
from kit.commands import said
from kit.malformed import RAW, require_good_end, wrong_contents, wrong_texts
from safetensors.torch import load_file, safe_open, save_file

from asft_lightning import Gram, LoRAFineTuner, build_anchors
from asft_lightning.anchors.anchor_set import _sha256
from asft_lightning.cli import main
from asft_lightning.commands.fit import _date_of
from asft_lightning.runs.folder import RunFolder


@pytest.fixture(scope="module")
def world(tmp_path_factory, pretrained):
    """A finished run with its adapter, and anchors for it."""
    folder = tmp_path_factory.mktemp("malformed")
    run = folder / "run"
    tiny.write_adapter(run / "adapter", pretrained)
    pretrained.load_tokenizer().save_pretrained(run / "adapter")
    pair = {"aligned": pretrained.aligned, "base": pretrained.base}
    (run / "config.yaml").write_text(yaml.safe_dump({"pretrained": pair, "template": {"secret": None}}))
    (folder / "model.yaml").write_text(yaml.safe_dump({"pretrained": pair}))
    facts = {"method": "AsFT", "lambda_reg": 1.0, "rows": 8, "harmful_rows": 2, "scoring_seconds": {"safety": 1.0}}
    facts |= {"training_seconds": 1.0, "peak_memory_mib": 2.0, "ended": True, "projection": {"class": "SafeLoRA"}}
    interval = {"before": [0.0, 9.0], "after": [1.0, 7.0]}
    score = {"before": 1.0, "after": 2.0, "steps": {"1": 1.5}, "interval": interval, "unscored": {"after": 1}}
    (run / "summary.json").write_text(json.dumps({"version": 1, "run": facts, "safety/harmful_score": score}))
    lora = LoRAFineTuner(pretrained, tiny.LORA).with_adapter(pretrained.load_model_on_meta())
    build_anchors(lora, pretrained.aligned, pretrained.base, [Gram()]).save(folder / "anchors.safetensors")
    return folder


CHAT = ("chat", "run", "--prompt", "hi", "--max_new_tokens", "1")
COMMANDS = {
    "summary.json": [("export", "run", "out")],
    "config.yaml": [("export", "run", "out"), CHAT],
    "adapter/tokenizer_config.json": [CHAT],
    "adapter/tokenizer.json": [CHAT],
    "adapter/adapter_config.json": [
        CHAT,
        ("export", "run", "out"),
        ("project-adapter", "run/adapter", "out", "--config", "model.yaml"),
        ("anchors", "diff", "anchors.safetensors", "run/adapter"),
    ],
}


FUZZED = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def require_good_ends(world, tmp, file, text, capsys, monkeypatch):
    shutil.rmtree(tmp, ignore_errors=True)
    shutil.copytree(world, tmp)
    monkeypatch.chdir(tmp)
    (tmp / "run" / file).write_text(text)
    for command in COMMANDS[file]:
        shutil.rmtree(tmp / "out", ignore_errors=True)
        require_good_end(capsys, *command)


@pytest.mark.slow
@settings(max_examples=80, **FUZZED)
@given(data=st.data())
def test_one_line_whatever_a_file_holds(world, tmp_path, capsys, monkeypatch, data):
    file = data.draw(st.sampled_from(list(COMMANDS)))
    text = data.draw(wrong_texts(world / "run" / file))
    require_good_ends(world, tmp_path / "world", file, text, capsys, monkeypatch)


@pytest.mark.slow
@settings(max_examples=60, **FUZZED)
@given(data=st.data())
def test_one_line_whatever_anchors_hold(world, tmp_path, capsys, data):
    """With the hash of what they hold: whoever writes a file can write that, too."""
    anchors, adapter = tmp_path / "anchors.safetensors", str(world / "run" / "adapter")
    with safe_open(world / "anchors.safetensors", framework="pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(world / "anchors.safetensors")
    if data.draw(st.booleans()):
        metadata["anchors"] = data.draw(
            wrong_contents(json.loads(metadata["anchors"])).map(json.dumps) | st.sampled_from(RAW)
        )
    else:
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = data.draw(st.sampled_from([tuple(tensors[name].shape), (), (0,), (2, 2)]))
        kind = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
        value = data.draw(st.sampled_from([0.0, 1.0, -1.0, 1e30, float("nan")]))
        tensors[name] = torch.full(shape, value).to(kind)
    save_file(tensors, anchors, metadata | {"sha256": _sha256(tensors, metadata["anchors"])})

    for command in (["show", str(anchors), "--png", str(tmp_path / "x.png")], ["diff", str(anchors), adapter]):
        require_good_end(capsys, "anchors", *command)


@pytest.mark.parametrize("text", ["", "null", "x" * 9, "\xff" * 99, '{"__metadata__": 7}'])
def test_anchors_that_are_another_file(tmp_path, capsys, text):
    for content in (text.encode("latin-1"), len(text).to_bytes(8, "little") + text.encode("latin-1")):
        (tmp_path / "anchors.safetensors").write_bytes(content)
        assert "cannot be read as anchors" in said(capsys, "anchors", "show", str(tmp_path / "anchors.safetensors"))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", {"model": []}),
        ("tokenizer.json", {"model": 7}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
    ],
)
@pytest.mark.parametrize("command", ["chat", "generate", "export"])
def test_tokenizer_of_a_run_that_is_none(world, tmp_path, capsys, command, file, change):
    """Its library raises errors of no class of their own; some settings fail it only when it is used."""
    shutil.copytree(world / "run", tmp_path / "run")
    path = tmp_path / "run" / "adapter" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    prompts = tiny.write_rows(tmp_path / "prompts.jsonl", tiny.benign_rows())
    more = {"chat": ["--prompt", "hi"], "generate": [prompts, "out"], "export": ["out", "--merged=true"]}[command]

    assert "run/adapter cannot be read as a tokenizer" in said(capsys, command, str(tmp_path / "run"), *more)


def edited(world, tmp_path, **changes):
    """The commands that read an adapter's configuration, on one with these settings in it."""
    shutil.copytree(world, tmp_path / "world")
    config = tmp_path / "world" / "run" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    run, adapter, out, model = (str(tmp_path / "world" / name) for name in ("run", "run/adapter", "out", "model.yaml"))
    return [
        ("export", run, out),
        ("project-adapter", adapter, out, "--config", model),
    ]


EVIL = "^(([a-z_0-9.])+.?)+$!"


@pytest.mark.parametrize(
    "changes",
    [
        {"rank_pattern": {EVIL: 4}},
        {"alpha_pattern": {EVIL: 4}},
        {"target_modules": EVIL},
        {"target_modules": [EVIL]},
        {"exclude_modules": EVIL},
        {"rank_pattern": {".*" * 40 + "!": 4}},
        {"rank_pattern": {"(a|a){1,99}!": 4}},
        {"rank_pattern": {"(?x:( [a-z_0-9.]+ ) +!)": 4}},
        {"target_modules": "(?x)( [a-z_0-9.]+ ) +!"},
    ],
    ids=str,
)
def test_pattern_that_would_be_matched_for_ever(world, tmp_path, capsys, changes):
    for command in edited(world, tmp_path, **changes):
        assert "a pattern of an adapter must repeat no group, have no (? but (?:, and at most 4 of" in said(capsys, *command)


def test_more_patterns_than_can_be_tried(world, tmp_path, capsys):
    for command in edited(world, tmp_path, rank_pattern={f"{i}.*.*!": 4 for i in range(101)}):
        assert "an adapter may have 100 patterns with *, + or {, and rank_pattern of" in said(capsys, *command)


def test_patterns_that_people_write(world, tmp_path):
    changes = {"rank_pattern": {r".*\.layers\.\d+\.(self_attn|mlp)\.q_proj": 4}, "target_modules": r".*\.(q|v)_proj"}
    for command in edited(world, tmp_path, **changes)[1:]:
        main(list(command))


def test_adapter_of_a_kind_that_cannot_be_merged(world, tmp_path, capsys):
    command, _ = edited(world, tmp_path, alora_invocation_tokens=[1])
    assert "this adapter cannot be merged into its model" in said(capsys, *command, "--merged=true")


def test_module_that_an_adapter_names_is_not_imported(world, tmp_path, capsys, monkeypatch):
    (tmp_path / "evil_core.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for command in edited(world, tmp_path, megatron_config={"x": 1}, megatron_core="evil_core"):
        assert "names a Python module to import, evil_core, which is not done" in said(capsys, *command)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited there")
def test_chat_template_of_a_run_that_builds_gigabytes(world, tmp_path, capsys):
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "adapter" / "chat_template.jinja").write_text("{{ 'x' * 10 ** 10 }}")

    message = said(capsys, "export", str(tmp_path / "run"), str(tmp_path / "out"))
    assert "a chat template must write a short conversation within 2 s and 1 GiB" in message


BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize("text", [BOMB, MERGES, "a: &a [*a]", "[" * 20_000], ids=["aliases", "merges", "itself", "deep"])
@pytest.mark.parametrize("command", ["fit", "describe", "compare", "export"])
def test_config_that_comes_to_gigabytes(world, tmp_path, capsys, text, command):
    shutil.copytree(world / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "config.yaml", tmp_path / "bomb.yaml"):
        path.write_text(text)
    config = str(tmp_path / "bomb.yaml")
    arguments = {"compare": [config], "export": [str(tmp_path / "run"), str(tmp_path / "out")]}
    message = said(capsys, command, *arguments.get(command, ["--config", config]))
    assert "must have at most 100000 values with its aliases written out, nested at most 100 deep" in message


@pytest.mark.parametrize("text", [BOMB, MERGES, "[" * 20_000, "[]", "template: 3"])
def test_config_beside_a_checkpoint_that_is_gone_on_from(tmp_path, text):
    """Its date is asked for, and a config that says none is none."""
    (tmp_path / "config.yaml").write_text(text)
    assert _date_of(RunFolder(tmp_path)) is None
