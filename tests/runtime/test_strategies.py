"""The same run on one device, under DDP and under FSDP2: real Lightning strategies, two gloo processes, the command line."""

import csv
import math
import os
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path
from subprocess import STDOUT

import pytest
import torch
import yaml
from kit import tiny
from kit.commands import FORKED
from kit.forks import Forks, free_port
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import asft_lightning
from asft_lightning import AnchorSet, ConfigurationError, FSDP2Strategy, Gram, Harmful, Subspace, build_anchors
from asft_lightning.anchors.anchor import ModuleAnchor
from asft_lightning.anchors.anchor_set import AnchorTerm
from asft_lightning.functional import QuadraticForm
from asft_lightning.runs.alignment_log import AlignmentLog
from asft_lightning.runtime.strategies import require_known_strategy

pytestmark = FORKED

FSDP2 = {"class_path": "asft_lightning.FSDP2Strategy", "init_args": {"process_group_backend": "gloo"}}
STRATEGIES = {"single": "auto", "ddp": "ddp", "fsdp": FSDP2}
STEPS = 5
BF16 = 2 * math.sqrt(2**-8 / math.pi)
"""How far roundings of relative size 2⁻⁸ in the gradients take what AdamW makes of them: as many signs turn round."""


def on_two_machines(command, folder):
    """By torchrun, once for each; both are this one. Again where a machine fails: its port may be another's by then."""
    for attempt in range(3):
        logs = [folder / f"machine-{node}-{attempt}.txt" for node in range(2)]
        machines = [start_machine(command, folder, node, port, log) for port in [free_port()]
                    for node, log in enumerate(logs)]  # fmt: skip
        waits = 3000  # of a tenth of a second
        while None in (codes := [machine.poll() for machine in machines]) and not any(codes) and waits:
            waits -= 1
            time.sleep(0.1)
        if codes == [0, 0]:
            return
        for machine in machines:
            machine.kill()
            machine.wait()
    raise AssertionError("\n".join(log.read_text()[-3000:] for log in logs))


def start_machine(command, folder, node, port, log):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ASFT_LIGHTNING_CACHE": str(folder / "cache")}
    torchrun, program = (str(Path(sys.executable).with_name(name)) for name in ("torchrun", "asft-lightning"))
    settings = {"nnodes": 2, "nproc-per-node": 1, "node-rank": node, "master-addr": "127.0.0.1", "master-port": port}
    start = [torchrun, *(f"--{key}={value}" for key, value in settings.items()), "--no-python", program, *command]
    with log.open("w") as file:
        return subprocess.Popen(start, env=environment, stdout=file, stderr=STDOUT)


def pair_of(folder, is_packed):
    """Packed weights need sides of 64: bitsandbytes packs in blocks, and some CPUs' kernels take no smaller side."""
    sides = {"hidden_size": 64, "intermediate_size": 128} if is_packed else {}
    return tiny.as_pretrained([tiny.save_tiny(folder / name, seed, **sides) for name, seed in (("aligned", 1), ("base", 2))])


def anchors_of(pair, folder):
    """A file of the four kinds of anchor: whole and few output directions, a harmful adapter's, and input-side forms."""
    adapter = tiny.write_adapter(folder / "harmful-adapter", pair, r=2)
    model = get_peft_model(pair.load_model_on_meta(), LoraConfig(**tiny.LORA | {"task_type": "CAUSAL_LM"}))
    kinds = [Gram(), Subspace(num_directions=5), Harmful(adapter=adapter, weight=0.5)]
    built = build_anchors(model, pair.aligned, pair.base, kinds, progress=False)
    torch.manual_seed(11)
    forms = {name: QuadraticForm(1.0, torch.linalg.qr(torch.randn(width, 3))[0], torch.rand(3) * 4)
             for name, (_, width) in built.shapes.items()}  # fmt: skip
    inputs = AnchorTerm({"class": "Inputs"}, 0.3, {name: ModuleAnchor(inp=form) for name, form in forms.items()})
    AnchorSet(built.shapes, (*built.terms, inputs), built.sources).save(folder / "anchors.safetensors")
    return str(folder / "anchors.safetensors")


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Runs ``asft-lightning fit`` with a strategy; returns the run's folder."""
    folder = tmp_path_factory.mktemp("strategies")
    forks = Forks(folder)
    pairs = {is_packed: pair_of(folder / f"packed-{is_packed}", is_packed) for is_packed in (False, True)}
    anchor_files = {is_packed: anchors_of(pair, Path(pair.aligned).parent) for is_packed, pair in pairs.items()}
    benign = {"path": tiny.write_rows(folder / "benign.jsonl", tiny.benign_rows())}
    harmful = {"path": tiny.write_rows(folder / "harmful.jsonl", tiny.harmful_rows())}
    rows = [{"instruction": f"how to open {'x' * i} {i}", "output": "no"} for i in range(7)]
    prompts = {"path": tiny.write_rows(folder / "prompts.jsonl", rows)}

    def run(
        name, strategy, save=False, dtype="float32", precision="32-true", method="AsFT", model=(), packed=False, **arguments
    ):
        ranks = 1 if strategy == "single" else 2
        nodes = {"devices": 1, "num_nodes": 2} if strategy == "multi-node" else {"devices": ranks}
        pair, own = pairs[packed], folder / name
        penalised = {"lambda_reg": 2.0, "anchor_file": anchor_files[packed]} if "AsFT" in method else {}
        callbacks = [
            {"class_path": "asft_lightning.SafetyEvaluation",
             "init_args": {"prompts": prompts, "max_new_tokens": 8, "batch_size": 2}},
            {"class_path": "asft_lightning.AdapterCheckpoint"},
        ]  # fmt: skip
        trains = tiny.trains(getattr(asft_lightning, method))
        monitor = {"class_path": "asft_lightning.AlignmentMonitor", "init_args": {"every_n_steps": 2}}
        callbacks += [monitor] if "lora" in trains else []
        saver = {"dirpath": str(own), "filename": "{step}", "save_top_k": -1, "every_n_train_steps": 2}
        callbacks += [{"class_path": "ModelCheckpoint", "init_args": saver}] if save else []
        config = {
            "seed_everything": 1,
            "pretrained": {"aligned": pair.aligned, "base": pair.base, "dtype": dtype, "load_in_4bit": packed},
            "model": {
                "class_path": f"asft_lightning.{method}",
                "init_args": {
                    **penalised, **trains, "loss_reduction": "row",
                    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.0}},
                    **dict(model),
                },
            },
            "data": {
                "class_path": "asft_lightning.MixtureDataModule",
                "init_args": {"benign": benign, "harmful": harmful, "num_rows": 40, "poison_ratio": 0.2,
                              "batch_size": 4 // ranks},
            },
            "trainer": {
                "accelerator": "cpu", **nodes, "strategy": STRATEGIES.get(strategy, FSDP2), "precision": precision,
                "max_steps": STEPS, "max_epochs": -1, "accumulate_grad_batches": 2, "gradient_clip_val": 0.5,
                "enable_progress_bar": False, "enable_checkpointing": save, "log_every_n_steps": 1,
                "default_root_dir": str(own), "callbacks": callbacks,
            },
        }  # fmt: skip
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        command = ["fit", f"--config={file}", *(f"--{key}={value}" for key, value in arguments.items())]
        if strategy == "multi-node":
            on_two_machines(command, folder)
        else:
            forks.run(command, ranks)
        return own

    yield run
    forks.close()


@pytest.fixture(scope="module")
def runs(launch):
    return {strategy: launch(strategy, strategy, save=True) for strategy in STRATEGIES}


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def apart(found, expected):
    """The largest relative L2 distance of a weight from what it should be."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - weight).norm() / weight.norm()) for name, weight in expected.items())


def logged(folder, column):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_weights_are_those_of_one_process(runs, strategy):
    """Rows differ between ranks and the factors' first values too: what agrees is the run, not a coincidence."""
    assert apart(adapter(runs[strategy]), adapter(runs["single"])) <= 1e-5


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_logged_penalty_is_that_of_one_process(runs, strategy):
    expected, found = logged(runs["single"], "train/penalty"), logged(runs[strategy], "train/penalty")
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected[-1] > expected[0] == 0.0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_logged_gradient_norm_is_that_of_one_process(runs, strategy):
    """Of the mean gradient; under FSDP2 of all ranks' parts."""
    expected, found = logged(runs["single"], "train/gradient_norm"), logged(runs[strategy], "train/gradient_norm")
    assert found == pytest.approx(expected, rel=1e-4) and min(expected) > 0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_monitored_figures_are_those_of_one_process(runs, strategy):
    expected, found = (AlignmentLog(runs[name] / "alignment.csv").read() for name in ("single", strategy))
    assert len(found) == len(expected) > 0
    for row, other in zip(found, expected, strict=True):
        assert astuple(row)[:4] == astuple(other)[:4]
        assert astuple(row)[4:] == pytest.approx(astuple(other)[4:], rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_answers_are_those_of_one_process(runs, strategy, when):
    """Four prompts to one rank and three to the other, which end at different lengths."""
    expected, found = ((runs[name] / "generations" / f"safety-{when}.jsonl").read_text() for name in ("single", strategy))
    assert found == expected


@pytest.mark.parametrize("conflict", ["add", "project"])
def test_answers_are_held_as_by_one_process(launch, tmp_path, conflict):
    """Under FSDP2 the head's weights are whole only within a forward pass, in which both sides of the comparison lie."""
    prompts = vars(tiny.unsafe_prompts(tmp_path))
    held = {"answers": {"prompts": prompts, "max_new_tokens": 4, "weight": 5.0, "budget": 1e-3}, "conflict": conflict}
    runs = {strategy: launch(f"{strategy}-answers-{conflict}", strategy, model=held) for strategy in STRATEGIES}
    columns = ["train/answer_weight", *(["train/conflict"] if conflict == "project" else [])]
    for strategy in ("ddp", "fsdp"):
        for column in columns:
            expected, found = (logged(runs[name], column) for name in ("single", strategy))
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-5) and len(found) >= STEPS
        assert apart(adapter(runs[strategy]), adapter(runs["single"])) <= 1e-5
        expected, found = (logged(runs[name], "train/answer_divergence") for name in ("single", strategy))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6) and expected[-1] > 1e-4


@pytest.mark.parametrize(("method", "figure"), [("SBR", "state_distance"), ("ConstrainedSFT", "token_weight")])
def test_rivals_are_as_in_one_process(launch, tmp_path, method, figure):
    """SBR asks for no logits: under FSDP2 its gradients come by the states alone. ConstrainedSFT's first forward pass is
    without gradients, and without the adapter. And rank 0 builds what the update is watched against alone."""
    held = {"prompts": vars(tiny.unsafe_prompts(tmp_path))} if method == "SBR" else {}
    runs = {strategy: launch(f"{strategy}-{method}", strategy, method=method, model=held) for strategy in STRATEGIES}
    for strategy in ("ddp", "fsdp"):
        assert apart(adapter(runs[strategy]), adapter(runs["single"])) <= 1e-5
    expected, found = (logged(runs[name], f"train/{figure}") for name in ("single", "ddp"))
    assert len(found) == len(expected) > 1 and expected[-1] != expected[0]


def test_a_fixed_safety_module_is_as_in_one_process(launch, tmp_path):
    """Sharded, each rank has its rows of the directions; the half that holds the start stays."""
    task = vars(tiny.unsafe_prompts(tmp_path, first=20, name="task"))
    held = {"unsafe": vars(tiny.unsafe_prompts(tmp_path)), "task": task, "safety_rank": 3, "task_rank": 5}
    runs = {strategy: launch(f"{strategy}-salora", strategy, method="SaLoRA", model=held) for strategy in STRATEGIES}
    for strategy in ("ddp", "fsdp"):
        assert apart(adapter(runs[strategy]), adapter(runs["single"])) <= 1e-5


@pytest.fixture(scope="module")
def full_runs(launch):
    return {strategy: launch(f"{strategy}-full", strategy, save=True, method="FullAsFT") for strategy in STRATEGIES}


def whole_model(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_whole_weights_are_those_of_one_process(full_runs, strategy):
    """Under four kinds of anchor, on either side; what is written is the whole model, also where each rank has a part."""
    found, expected = whole_model(full_runs[strategy]), whole_model(full_runs["single"])
    assert apart(found, expected) <= 1e-5
    penalties = [logged(full_runs[name], "train/penalty") for name in (strategy, "single")]
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-5) and penalties[1][-1] > penalties[1][0] == 0.0
    answers = [(full_runs[name] / "generations" / "safety-after.jsonl").read_text() for name in (strategy, "single")]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_resumed_run_of_whole_weights_is_the_uninterrupted_one(launch, full_runs, strategy):
    resumed = {"ckpt_path": full_runs[strategy] / "step=2.ckpt"}
    again = launch(f"{strategy}-full-again", strategy, method="FullAsFT", **resumed)
    expected, found = whole_model(full_runs[strategy]), whole_model(again)
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_two_machines_are_as_one(launch, runs):
    """Each with one device, started by torchrun."""
    assert apart(adapter(launch("two-machines", "multi-node")), adapter(runs["single"])) <= 1e-5


@pytest.mark.parametrize(
    ("strategy", "exact"), [("ddp", {"precision": "64-true"}), ("fsdp", {"dtype": "float64"})], ids=["ddp", "fsdp"]
)
def test_float64_agrees_elementwise(launch, strategy, exact):
    """FSDP2 has no ``64-true`` in Lightning, but follows the checkpoint's dtype, as one device does."""
    expected = adapter(launch(f"single-64-{strategy}", "single", **exact))
    found = adapter(launch(f"{strategy}-64", strategy, **exact))
    for name, weight in expected.items():
        assert weight.dtype == torch.float64
        torch.testing.assert_close(found[name], weight, rtol=1e-9, atol=1e-12)


def test_four_bits_under_ddp(launch):
    found = {strategy: adapter(launch(f"{strategy}-packed", strategy, packed=True)) for strategy in ("single", "ddp")}
    assert apart(found["ddp"], found["single"]) <= 1e-5


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(launch, runs, strategy):
    again = launch(f"{strategy}-again", strategy, ckpt_path=runs[strategy] / "step=2.ckpt")
    expected, found = adapter(runs[strategy]), adapter(again)
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())


@pytest.mark.parametrize(
    ("first", "then", "model"),
    [("single", "fsdp", {"compile_backend": "aot_eager"}), ("fsdp", "ddp", {}), ("fsdp", "single", {})],
    ids=["single-fsdp-compiled", "fsdp-ddp", "fsdp-single"],
)
def test_checkpoint_of_one_strategy_goes_on_under_another(launch, runs, first, then, model):
    again = launch(f"{first}-{then}", then, model=model, ckpt_path=runs[first] / "step=2.ckpt")
    assert apart(adapter(again), adapter(runs["single"])) <= 1e-5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpoint_is_one_small_file_of_plain_data(runs, strategy):
    saved = torch.load(runs[strategy] / "step=4.ckpt", weights_only=True)
    assert all("lora_" in name for name in saved["state_dict"])
    assert len(saved["rng"]) == (1 if strategy == "single" else 2)
    assert set(saved["optimizer_states"][0]["state"]) == set(range(len(saved["state_dict"])))


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_precision_and_gradient_checkpointing_under_every_strategy(launch, precision):
    """Factors stay float32. In bfloat16 the order of a sum shows: docs/scaling.md derives by how much at most."""
    saving = {"precision": precision, "model": {"gradient_checkpointing": True}}
    found = {name: adapter(launch(f"{name}-{precision}", name, **saving)) for name in STRATEGIES}
    assert {weight.dtype for weights in found.values() for weight in weights.values()} == {torch.float32}
    for name in ("ddp", "fsdp"):
        assert apart(found[name], found["single"]) <= BF16


@pytest.mark.parametrize("strategy", [FSDPStrategy(), ModelParallelStrategy()])
def test_strategies_under_which_factors_are_none(strategy):
    with pytest.raises(
        ConfigurationError, match=rf"needs asft_lightning.FSDP2Strategy, got {type(strategy).__name__}, which"
    ):
        require_known_strategy(strategy)


def test_known_strategies_pass():
    require_known_strategy(FSDP2Strategy())
    require_known_strategy(DDPStrategy(), load_in_4bit=True)


def test_packed_weights_cannot_be_sharded():
    with pytest.raises(ConfigurationError, match=r"must not be packed, and pretrained.load_in_4bit packs .* Use DDP"):
        require_known_strategy(FSDP2Strategy(), load_in_4bit=True)
