"""The checks of benchmarks/gpu.py.

Each runs in a process of its own, and prints what it found as JSON, in the last line::

    python benchmarks/gpu_checks.py resume cuda models/smollm2 FOLDER
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from asft_lightning import (
    Activation,
    Answers,
    AsFT,
    FSDP2Strategy,
    Gram,
    MixtureDataModule,
    Pretrained,
    Probe,
    Source,
    Template,
    UpdatePenalty,
    build_anchors,
)
from asft_lightning.runtime.extras import is_installed

sys.path.insert(0, str(Path(__file__).parent / "speed"))
from synthetic import direction

SANDBOX = "sandbox:aligned"
_STEPS, _BATCH = 4, 4
_LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
_TEMPLATE = Template(max_length=256)


class Left(Exception):  # noqa: N818 (no error)
    """A check that cannot be made here; the text says why."""


@dataclass(frozen=True)
class Here:
    """What a check is made with.

    Args:
        device: ``cuda`` or ``cpu``.
        model: A chat model's folder, or the sandbox's.
        folder: To write to.
    """

    device: str
    model: str
    folder: Path

    def pretrained(self, **settings: Any) -> Pretrained:
        """The model."""
        return Pretrained(self.model, **{"dtype": "float32", **settings})

    def prompts(self, kind: str) -> Source:
        """``unsafe`` or ``harmless`` prompts in the package; of the sandbox its own, for its vocabulary is closed."""
        sandbox = {"unsafe": "sandbox:harmful", "harmless": "sandbox:harmless"}
        return Source(sandbox[kind] if self.model == SANDBOX else f"catalogue:{kind}-prompts")

    def rows(self) -> Source:
        """What is trained on: the package's harmless prompts, each with an answer of a few words."""
        if self.model == SANDBOX:
            return Source("sandbox:benign")
        file = self.folder / "rows.jsonl"
        asked = (row.prompt for row in self.prompts("harmless").iterate())
        rows = [{"prompt": prompt, "answer": f"This is answer number {i}."} for i, prompt in enumerate(asked)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Source(str(file), prompt="{prompt}", answer="{answer}")

    def module(self, **settings: Any) -> AsFT:
        """Protected in both ways, an anchor on the update and held answers, and quick to learn."""
        seed_everything(0, verbose=False)
        unsafe = self.prompts("unsafe")
        held = {"anchors": [Activation(prompts=unsafe, num_prompts=8)], "answers": Answers(unsafe, num_prompts=8)}
        pretrained = settings.pop("pretrained", self.pretrained())
        return AsFT(pretrained, lora=_LORA, template=_TEMPLATE, optimizer=_fast, **held | settings)

    def fit(self, module: AsFT, checkpoint: Path | None = None, **settings: Any) -> dict[str, Tensor]:
        """Train for some steps; {name: value} of what was trained."""
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        defaults = {"max_steps": _STEPS, "enable_checkpointing": False, "default_root_dir": str(self.folder), "devices": 1}
        accelerator = "gpu" if self.device == "cuda" else "cpu"
        data = {"num_rows": 32, "poison_ratio": 0, "batch_size": _BATCH, "seed": 0}
        rows = MixtureDataModule(module.pretrained, self.rows(), template=_TEMPLATE, **data)
        Trainer(accelerator=accelerator, **quiet | defaults | settings).fit(module, rows, ckpt_path=checkpoint)
        trained = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
        return {name: getattr(value, "full_tensor", lambda v=value: v)().cpu().clone() for name, value in trained.items()}


def _fast(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)


def precision(name: str, here: Here) -> Mapping[str, object]:
    """Factors, anchors and penalty stay float32, nothing is NaN, and something is learnt and held."""
    if here.device == "cpu" and name == "16-mixed":
        raise Left("the CPU has no 16-mixed")
    module = here.module()
    weights = here.fit(module, precision=name)
    penalty = module.penalty().detach()
    kept = {value.dtype for value in [*weights.values(), *module.penalty.buffers()] if value.is_floating_point()}
    _require(kept == {torch.float32}, f"factors and anchors must be float32, got {kept}")
    _require(all(bool(value.isfinite().all()) for value in weights.values()), "factors must be finite")
    _require(any(bool(value.any()) for key, value in weights.items() if "lora_B" in key), "factors must have learnt")
    _require(
        penalty.dtype == torch.float32 and float(penalty) > 0, f"the penalty must be float32 and above 0, got {penalty}"
    )
    return {"penalty": float(penalty)}


def parallel(strategy: Callable[[], Any], here: Here) -> Mapping[str, object]:
    """One rank of a strategy's process group trains to the weights of none."""
    alone = here.fit(here.module())
    return _agree(here.fit(here.module(), strategy=strategy()), alone, 1e-5)


def four_bit(here: Here) -> Mapping[str, object]:
    """Frozen weights in 4 bits; the factors learn and stay float32."""
    if not is_installed("bitsandbytes"):
        raise Left("bitsandbytes is not installed")
    if here.model == SANDBOX:
        raise Left("the sandbox's layers are narrower than a block of 4 bits")
    weights = here.fit(here.module(pretrained=here.pretrained(load_in_4bit=True)))
    _require(all(bool(value.isfinite().all()) for value in weights.values()), "factors must be finite")
    return {"factors": len(weights)}


def compiled(here: Here) -> Mapping[str, object]:
    """Through ``torch.compile`` a run ends at the weights of one without, to the rounding of fused kernels."""
    plain = here.fit(here.module())
    return _agree(here.fit(here.module(compile_backend="inductor")), plain, 1e-2)


def resume(here: Here) -> Mapping[str, object]:
    """Broken off and gone on with: the weights of a run that was not, bit for bit."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    whole = here.fit(here.module(), deterministic=True)
    kept = ModelCheckpoint(here.folder, filename="half", every_n_train_steps=_STEPS // 2)
    half = {"deterministic": True, "max_steps": _STEPS // 2, "callbacks": [kept], "enable_checkpointing": True}
    here.fit(here.module(), **half)
    again = here.fit(here.module(), checkpoint=here.folder / "half.ckpt", deterministic=True)
    differing = [name for name in whole if not torch.equal(whole[name], again[name])]
    _require(not differing, f"weights must be those of a whole run, and {len(differing)} of {len(whole)} are not")
    return {"tensors": len(whole)}


def anchors(here: Here) -> Mapping[str, object]:
    """Built on the device, anchors give the penalty that those of the CPU give."""
    module = here.module()
    module.configure_model()
    assert module.model is not None
    for name, factor in module.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(factor, std=0.02)
    weights = {name: value.float() for name, value in module.model.get_base_model().state_dict().items() if value.ndim == 2}
    base = {name: v - direction((v.shape[0], v.shape[1])).to(v) if "_proj" in name else v for name, v in weights.items()}
    found = {}
    for device in dict.fromkeys(["cpu", here.device]):
        probe = Probe(here.pretrained().load_model, module.tokenizer, _TEMPLATE, device)
        for kind in (Gram(), Activation(prompts=here.prompts("unsafe"), num_prompts=16)):
            built = build_anchors(module.model, weights, base, [kind], device=device, probe=probe, progress=False)
            found[type(kind).__name__, device] = float(UpdatePenalty(module.model, built, resumed=True)().detach())
    figures = {}
    for kind in ("Gram", "Activation"):
        figures[kind] = abs(found[kind, here.device] / found[kind, "cpu"] - 1)
        _require(figures[kind] < 1e-3, f"{kind}: the penalty must be the CPU's to 1e-3, and differs by {figures[kind]:.1e}")
    return figures


def no_waiting(here: Here) -> Mapping[str, object]:
    """A step that logs nothing makes the host wait for the device nowhere."""
    if here.device == "cpu":
        raise Left("there is no device to wait for; tests/modules/test_no_waiting.py counts on the CPU")
    watch = _Watch()
    here.fit(here.module(), callbacks=[watch])
    _require(watch.steps > 0, "no step was watched")
    return {"steps": watch.steps}


class _Watch(Callback):
    """Has CUDA raise where the host waits, from the third step's batch to its end."""

    steps = 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += int(torch.cuda.get_sync_debug_mode() == 2)
        torch.cuda.set_sync_debug_mode("default")


def _agree(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], within: float) -> Mapping[str, object]:
    """The largest difference of a tensor, as a share of its norm."""
    largest = max(float((found[name] - value).norm() / value.norm().clamp_min(1e-12)) for name, value in expected.items())
    _require(largest <= within, f"weights must agree to {within}, and differ by {largest:.1e}")
    return {"difference": largest}


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(rule)


CHECKS: Mapping[str, Callable[[Here], Mapping[str, object]]] = {
    **{name: partial(precision, name) for name in ("32-true", "bf16-mixed", "bf16-true", "16-mixed")},
    "ddp": partial(parallel, lambda: "ddp"),
    "fsdp2": partial(parallel, FSDP2Strategy),
    "4-bit": four_bit,
    "compile": compiled,
    "resume": resume,
    "anchors": anchors,
    "no waiting": no_waiting,
}
"""By name; each returns figures, raises AssertionError, or says by :class:`Left` why it is left out."""


if __name__ == "__main__":
    check, device, model, folder = sys.argv[1:]
    try:
        found: Mapping[str, object] = {"outcome": "passed", **CHECKS[check](Here(device, model, Path(folder)))}
    except Left as reason:
        found = {"outcome": "left out", "why": str(reason)}
    except AssertionError as error:
        found = {"outcome": "failed", "why": str(error)}
    print(json.dumps(found))
