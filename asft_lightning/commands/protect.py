"""``asft-lightning protect``: fine-tune a model on your rows and keep it safe, in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from asft_lightning.commands.checked_fit import fit_checked, require_model_and_rows, require_numbers
from asft_lightning.commands.protection import PROMPTS, protection_of, strengthen, with_settings
from asft_lightning.commands.ways_on import line
from asft_lightning.errors import ConfigurationError
from asft_lightning.modules.lora_config import PAPER_LORA
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.exits import without_noise
from asft_lightning.runtime.files import user_path, write_atomically
from asft_lightning.runtime.threads import threads_as_found
from asft_lightning.weights.hashing import text_hash
from asft_lightning.weights.locations import SANDBOX
from asft_lightning.weights.pretrained import Pretrained

EXAMPLES = (
    "protect sandbox:aligned sandbox:benign",
    "protect Qwen/Qwen2.5-0.5B-Instruct my-rows.jsonl --test my-test-rows.jsonl",
)

_SCALE = PAPER_LORA["lora_alpha"] / PAPER_LORA["r"]
"""α / r, the paper's."""
_ANSWER = 64
"""Tokens of the longest answer that is scored."""
_SAVING: Mapping[str, Any] = {"save_last": True, "every_n_train_steps": 50, "save_on_exception": True}
"""As trainer/resumable: what a run that is ended goes on from."""
_SMALL = 1_000_000_000
"""Parameters below which a model takes the higher rate."""
_RATES = (1e-3, 2e-4)
"""Of a small model, which SmolLM2-135M was measured at (docs/protect.md), and of others: a common one for LoRA."""
_ATTENTION = (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",), ("q_lin", "v_lin"))
"""Names of attention's layers in families of models; the first that a model has all of."""
_EMBEDDED: Mapping[str, Any] = {
    "unsafe": "sandbox:harmful", "unsafe_test": "sandbox:unsafe_prompts",
    "harmless": "sandbox:harmless", "harmless_test": "sandbox:instructions",
    "test": "sandbox:task_test", "num_rows": 1000, "lr": 3e-3, "epochs": 5, "batch_size": 32, "threads": 1,
}  # fmt: skip
"""What the embedded pair takes instead: its language has a few hundred words, and AdvBench's are not among them; and at
its size a second thread only costs."""


def protect(
    model: str,
    data: str,
    method: str = "protect",
    base: str | None = None,
    unsafe: str | None = None,
    harmless: str | None = None,
    test: str | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    rank: int = 8,
    targets: list[str] | str | None = None,
    lambda_reg: float | None = None,
    budget: float | None = None,
    precision: str | None = None,
    devices: int | str = "auto",
    strategy: str = "auto",
    seed: int = 0,
    out: str = "runs/protect",
) -> RunFolder:
    """Fine-tune an aligned model on your rows and keep it safe; score it before and after, and write the adapter.

    The rows that the aligned model refuses are left out, and its answers to unsafe and harmless prompts are held. The
    settings are written beside the run's folder as YAML: `asft-lightning fit --config FILE` is the same run, and takes any
    other setting. The tiny model sandbox:aligned has defaults of its own, which stand there.

    Args:
        model: The aligned model to fine-tune: a folder, a hub id, or sandbox:aligned.
        data: Your rows: a json, jsonl, csv or parquet file of chats or of instructions, a hub id, or catalogue:NAME.
        method: What protects: a name of `asft-lightning configs` under methods/.
        base: The model before its alignment, for methods that need it, such as asft.
        unsafe: Unsafe prompts to hold the model by, a file; null for those of AdvBench in the package.
        harmless: Harmless prompts to hold it by, a file; null for those in the package.
        test: Rows of the task with answers, to measure accuracy on; null for none.
        lr: Learning rate; it falls to 0. Null for 1e-3 below 1e9 parameters, else 2e-4.
        epochs: Passes over the rows; null for 3.
        batch_size: Rows a step; null for 8.
        rank: Of the LoRA adapter: the higher, the more it can learn.
        targets: Names of the layers to adapt, with commas between them; null for q_proj and v_proj, or what stands in
            their place.
        lambda_reg: Weight of a penalty, of methods with one.
        budget: Limit in place of a weight, of methods that hold answers (nats) or the drift.
        precision: 32-true, bf16-mixed or another of Lightning's; null for bf16-mixed on a GPU, else 32-true.
        devices: How many GPUs, or processes on a CPU; auto for all GPUs, or one process.
        strategy: How several devices work together: ddp, asft_lightning.FSDP2Strategy, or another of Lightning's.
        seed: Of everything that is drawn.
        out: The run's folder.

    Returns:
        The run's folder.
    """
    prompts = {"unsafe": unsafe, "harmless": harmless}
    require_numbers({"epochs": epochs, "batch_size": batch_size, "rank": rank}, lr)
    require_model_and_rows(model, [data, test], [unsafe, harmless])
    out = str(user_path(out))
    given = {"lr": lr, "epochs": epochs, "batch_size": batch_size, "test": test, **prompts}
    pretrained = Pretrained(model, base)
    pretrained.load_tokenizer()  # one that cannot be had is said now
    shape = pretrained.load_model_on_meta()
    chosen = _defaults(model, shape) | {name: value for name, value in given.items() if value is not None}
    protection = protection_of(method, prompts, chosen)
    strengthen(protection["model"]["init_args"], lambda_reg, budget, method)
    lora = PAPER_LORA | {"r": rank, "lora_alpha": _SCALE * rank, "target_modules": _named(targets, shape) or _targets(shape)}
    trainer = {
        "default_root_dir": out,
        "max_epochs": chosen["epochs"],
        "precision": precision or ("bf16-mixed" if torch.cuda.is_available() else "32-true"),
        "devices": devices,
        "strategy": strategy,
    }
    beginning = {
        "seed_everything": seed, "threads": chosen.get("threads"), "pretrained": {"aligned": model, "base": base}
    }  # fmt: skip
    config = beginning | _run(protection, data, lora, chosen, trainer)
    file = Path(f"{out.rstrip('/')}.yaml")
    text = yaml.safe_dump(config, sort_keys=False)
    _write(file, text)
    again = line("fit", "--config", file)
    ways_on = f"to go on if it is ended: {again} --ckpt_path auto", f"to change anything else: {again}"
    with without_noise(), threads_as_found():  # from Python as on the command line
        fit_checked(["fit", "--config", str(file)], text, f"written to {file}", *ways_on, "")
    return RunFolder(Path(out))


COMMAND = protect


def _defaults(model: str, shape: nn.Module) -> dict[str, Any]:
    """What is taken where nothing is given."""
    if model.startswith(SANDBOX):
        return dict(_EMBEDDED)
    rate = _RATES[sum(parameter.numel() for parameter in shape.parameters()) >= _SMALL]
    scored = {f"{kind}_test": f"{path}-test" for kind, path in PROMPTS.items()}
    return {"lr": rate, "epochs": 3, "batch_size": 8, **PROMPTS, **scored}


def _run(
    protection: Mapping[str, Any], data: str, lora: dict[str, Any], chosen: Mapping[str, Any], trainer: dict[str, Any]
) -> dict[str, Any]:
    """The rest of a run's config."""
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": chosen["lr"], "weight_decay": 0.0}}
    rows = {"benign": {"path": data}, "num_rows": chosen.get("num_rows"), "poison_ratio": 0}
    callbacks = _callbacks(chosen["unsafe_test"], chosen["harmless_test"], chosen.get("test"))
    return {
        "model": with_settings(protection["model"], lora=lora, optimizer=optimizer, lr_scheduler="linear"),
        "data": with_settings(protection["data"], **rows, batch_size=chosen["batch_size"]),
        "trainer": trainer | {"log_every_n_steps": 1, "enable_model_summary": False, "callbacks": callbacks},
    }


def _write(file: Path, text: str) -> None:
    """Write settings under a line that tells whether they have been changed since.

    Raises:
        ConfigurationError: If the user has changed what is there.
    """
    if file.is_file():
        first, _, rest = file.read_text(encoding="utf-8", errors="replace").partition("\n")
        if first != _first_line(rest):
            raise ConfigurationError(
                f"{file} must be as protect wrote it to be written anew, and it was changed since. Run it by asft-lightning "
                f"fit --config {file}, or give another --out."
            )
    write_atomically(file, f"{_first_line(text)}\n{text}")


def _first_line(text: str) -> str:
    return f"# asft-lightning protect, {text_hash(text)[:16]}"


def _callbacks(unsafe: str, harmless: str, test: str | None) -> list[dict[str, Any]]:
    """What is scored before and after: short answers say whether they refuse."""
    of_task = {} if test is None else {"UtilityEvaluation": test}
    scored = {"SafetyEvaluation": unsafe, "RefusalEvaluation": harmless, **of_task}
    callbacks: list[dict[str, Any]] = [
        {"class_path": f"asft_lightning.{name}", "init_args": {"prompts": {"path": path}, "max_new_tokens": _ANSWER}}
        for name, path in scored.items()
    ]
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": dict(_SAVING)}
    return [*callbacks, {"class_path": "asft_lightning.AdapterCheckpoint"}, saver]


def _named(targets: list[str] | str | None, model: nn.Module) -> list[str] | str | None:
    """As PEFT takes them.

    Raises:
        ConfigurationError: If the model has no layer of such a name.
    """
    if targets in (None, "all-linear"):
        return targets
    named = targets.split(",") if isinstance(targets, str) else targets
    layers = [f".{name}" for name, _ in model.named_modules()]
    for target in named:
        if not any(layer.endswith(f".{target}") for layer in layers):
            raise ConfigurationError(
                f"targets must be names of the model's layers, and it has no {target!r}. Leave it out for {_targets(model)}."
            )
    return named


def _targets(model: nn.Module) -> list[str] | str:
    """The layers of attention that LoRA is put on: the paper's, or what stands in their place in this family.

    Args:
        model: A model without weights.
    """
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return next((list(layers) for layers in _ATTENTION if names >= set(layers)), "all-linear")
