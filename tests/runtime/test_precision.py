"""The penalty is float32 under Lightning's own precision plugins, in our module and in anyone's."""

import pytest
import torch
from kit.models import EXACT, Pair, TwoSided, bound, factors_of, reference_penalty, tiny_pair, train_factors, with_lora
from kit.references import dense_gram
from kit.tiny import as_pretrained, fine_tuner, save_tiny, tiny_data, tiny_trainer, unsafe_prompts
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

from asft_lightning import Answers, AsFT, Pretrained, UpdatePenalty
from asft_lightning.anchors import Gram, build_anchors
from asft_lightning.anchors.kept_answers import KeptAnswers
from asft_lightning.runtime.precision import casting_once, keep_float32

ANCHORS = [Gram(tolerance=0, weight=0.3)]  # 0.3 is no number of bfloat16
PRECISIONS = ["32-true", "bf16-true", "bf16-mixed"]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair()


def expected_penalty(model, pair: Pair) -> float:
    return 0.3 * reference_penalty(model, pair, dense_gram)


def batches() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(1, 32, (6,), generator=generator)} for _ in range(8)]
    return DataLoader([{**row, "labels": row["input_ids"], "attention_mask": torch.ones(6).long()} for row in rows], 4)


def trainer(folder, precision: str) -> Trainer:
    return Trainer(
        max_steps=2,
        accelerator="cpu",
        precision=precision,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Recording(AsFT):
    """Compares each step's penalty with the dense one on the factors of that step."""

    def __init__(self, pair: Pair, **settings) -> None:
        super().__init__(**settings)
        self.pair, self.steps = pair, []

    def regularisation(self):
        found = super().regularisation()
        self.steps.append((found.item(), expected_penalty(self.model, self.pair), found.dtype))
        return found

    def on_train_start(self):
        train_factors(self.model)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_asft_keeps_penalty_anchors_and_factors_at_float32(pair, tmp_path, precision):
    for name in ("aligned", "base"):
        getattr(pair, name).save_pretrained(tmp_path / name)
    pretrained = Pretrained(str(tmp_path / "aligned"), str(tmp_path / "base"))
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    module = Recording(pair, pretrained=pretrained, lora=lora, anchors=ANCHORS)
    trainer(tmp_path, precision).fit(module, batches())
    assert len(module.steps) == 2
    assert [found for found, _, _ in module.steps] == pytest.approx([expected for _, expected, _ in module.steps], rel=1e-5)
    assert {dtype for _, _, dtype in module.steps} == {torch.float32}
    assert {buffer.dtype for buffer in module.penalty.buffers()} == {torch.float32}
    assert {factor.dtype for pair_of in factors_of(module.model).values() for factor in pair_of} == {torch.float32}
    frozen = {p.dtype for p in module.model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16 if precision == "bf16-true" else torch.float32}


@pytest.mark.parametrize("settings", [{}, {"budget": 0.1}], ids=["weight", "budget"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_are_read_and_held_at_float32(tmp_path, precision, settings):
    """A run's file is read while the default dtype is the plugin's."""
    pretrained = as_pretrained([save_tiny(tmp_path / name, seed) for name, seed in (("aligned", 1), ("base", 2))])
    answers = Answers(unsafe_prompts(tmp_path), max_new_tokens=4, **settings)
    module = fine_tuner(AsFT, pretrained, anchors=[], answers=answers)
    tiny_trainer(tmp_path, precision=precision, max_steps=2).fit(module, tiny_data(pretrained, tmp_path))
    held = [part for part in (module.answer_penalty, module.answer_budget) if part is not None]
    assert {b.dtype for part in held for b in part.buffers() if b.is_floating_point()} <= {torch.float32}
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}
    assert KeptAnswers.load(tmp_path / "answers.safetensors").sha256() == module.kept_answers.sha256()


class AnyonesModule(LightningModule):
    """Another project's LightningModule, with the three lines of ours."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair, self.steps = pair, []
        self.model = with_lora(pair.aligned)
        anchors = build_anchors(self.model, pair.aligned, pair.base, ANCHORS, progress=False)
        self.penalty = UpdatePenalty(self.model, anchors)
        train_factors(self.model)

    def training_step(self, batch, batch_idx):
        task_loss = self.model(**batch).loss
        penalty = self.penalty()
        self.steps.append((penalty.item(), expected_penalty(self.model, self.pair), penalty.dtype))
        return task_loss + penalty

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_anyones_module_keeps_penalty_and_anchors_at_float32(pair, tmp_path, precision):
    module = AnyonesModule(pair)
    trainer(tmp_path, precision).fit(module, batches())
    assert len(module.steps) == 2
    assert [found for found, _, _ in module.steps] == pytest.approx([expected for _, expected, _ in module.steps], rel=1e-5)
    assert {dtype for _, _, dtype in module.steps} == {torch.float32}
    assert {buffer.dtype for buffer in module.penalty.buffers()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_off_inside(pair, dtype):
    model = with_lora(pair.aligned)
    penalty = UpdatePenalty(model, build_anchors(model, pair.aligned, pair.base, ANCHORS, progress=False))
    train_factors(model)
    with torch.autocast("cpu", dtype):
        value = penalty()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected_penalty(model, pair), rel=1e-5)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_a_penalty_made_under_another_default_dtype_is_float32(pair, default):
    model = with_lora(pair.aligned)
    torch.set_default_dtype(default)  # as Lightning's *-true plugins do in configure_model
    try:
        penalty = UpdatePenalty(model, build_anchors(model, pair.aligned, pair.base, ANCHORS, progress=False))
    finally:
        torch.set_default_dtype(torch.float32)
    train_factors(model)
    assert {buffer.dtype for buffer in penalty.buffers()} == {torch.float32}
    assert penalty().item() == pytest.approx(expected_penalty(model, pair), rel=1e-5)


@pytest.mark.parametrize(
    ("start", "target", "expected"),
    [
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.float16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
    ],
)
def test_keep_float32_is_the_cast_but_never_below(start, target, expected):
    value = torch.tensor([1.0, 2.5], dtype=start)
    found = keep_float32(lambda t: t.to(target))(value)
    assert found.dtype == expected and found.tolist() == [1.0, 2.5]


def test_keep_float32_follows_the_device():
    moved = keep_float32(lambda t: t.to("meta", torch.bfloat16))(nn.Parameter(torch.ones(2)))
    assert moved.device.type == "meta" and moved.dtype == torch.float32


@pytest.mark.parametrize(
    ("cast", "dtype"),
    [
        (lambda p: p.to(torch.bfloat16), torch.float32),
        (lambda p: p.half(), torch.float32),
        (lambda p: p.bfloat16().float(), torch.float32),
        (lambda p: p.double(), torch.float64),
        (lambda p: p.double().half(), torch.float32),
    ],
    ids=["bfloat16", "half", "there and back", "double", "double and half"],
)
def test_casts_never_narrow_the_anchors(cast, dtype):
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    penalty = bound(model, pair, [Gram(tolerance=0, weight=0.3), TwoSided()])
    before = penalty().item()
    cast(penalty)
    assert {buffer.dtype for buffer in penalty.buffers()} == {dtype}
    assert penalty().dtype == dtype
    assert penalty().item() == pytest.approx(before, rel=1e-6)


def test_a_model_of_another_dtype_is_penalised_in_float32():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    penalty = bound(model, pair, [EXACT])
    model.to(torch.bfloat16)
    assert penalty().dtype == torch.float32
    assert penalty().item() == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)


@torch.no_grad()
def test_a_weight_is_rounded_once_until_autocast_ends():
    layer, x, plugin = nn.Linear(8, 4, bias=False), torch.randn(3, 8), MixedPrecision("bf16-mixed", "cpu")
    with plugin.forward_context():
        expected = layer(x)
    with plugin.forward_context(), casting_once():
        assert torch.equal(layer(x), expected)
        layer.weight.zero_()
        assert torch.equal(layer(x), expected)  # of what was rounded before
    with plugin.forward_context():
        assert not layer(x).any()
