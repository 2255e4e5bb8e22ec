"""Full fine-tuning: what the penalty on whole weight matrices adds to a step and to memory, at SmolLM2-135M's shapes."""

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from figures import Figure, synchronise
from synthetic import direction
from transformers import AutoModelForCausalLM, LlamaConfig

from asft_lightning import AnchorSet, FullAsFT, Gram, Pretrained
from asft_lightning.anchors import AnchorTerm, ModuleAnchor
from asft_lightning.functional import gram_map
from asft_lightning.weights.full_training import AllLinear
from asft_lightning.weights.trained_weights import trained_targets

_BATCH, _TOKENS, _LEARNT = 8, 128, 8
SMOLLM2 = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True,
)  # fmt: skip


def measure(repeats: int, device: str) -> Iterator[Figure]:
    """Weights are random; ``Gram``'s directions are those of a synthetic V."""
    yield _figure(["q_proj", "v_proj"], repeats, device)
    yield _figure("all-linear", repeats, device)


def _figure(targets: list[str] | AllLinear, repeats: int, device: str) -> Figure:
    """Steps with and without the penalty in turns; on the CPU in processor time, which other processes take none of."""
    module = _module(targets, device)
    ids = torch.randint(5, 1000, (_BATCH, _TOKENS), generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.where(torch.arange(_TOKENS, device=device) < _TOKENS - _LEARNT, -100, ids)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    optimizer = torch.optim.AdamW(module.trainable_parameters(), lr=1e-6)
    penalty = module.penalty
    assert penalty is not None

    def step(is_protected: bool) -> None:
        loss = module.task_loss(batch)
        (loss + penalty() if is_protected else loss).backward()
        optimizer.step()
        optimizer.zero_grad()

    spent = [(_seconds(lambda: step(True)), _seconds(lambda: step(False))) for _ in range(1 + repeats)][1:]
    protected, plain = (median(times) for times in zip(*spent, strict=True))
    kept = sum(buffer.nbytes for buffer in penalty.buffers())
    trained = sum(parameter.nbytes for parameter in module.trainable_parameters())
    notes = {"overhead": f"{protected / plain - 1:+.1%}", "kept": f"{kept / 2**20:.0f} MiB of {trained / 2**20:.0f} trained"}
    what = (
        f"FullAsFT step, Gram, {targets if isinstance(targets, str) else ' and '.join(targets)}, {_BATCH} × {_TOKENS} tokens"
    )
    return Figure("full", what, "full SFT step", protected, plain, notes)


def _module(targets: list[str] | AllLinear, device: str) -> FullAsFT:
    module = FullAsFT(Pretrained("random"), targets)
    module.model = module.made_trainable(AutoModelForCausalLM.from_config(SMOLLM2, dtype=torch.bfloat16))
    shapes = {target.name: target.shape for target in trained_targets(module.model)}
    maps = {shape: ModuleAnchor.of_map(gram_map(direction(shape))) for shape in set(shapes.values())}
    term = AnchorTerm(Gram().settings(), 1.0, {name: maps[shape] for name, shape in shapes.items()})
    module.bind(AnchorSet(shapes, (term,)))
    return module.to(device).train()


def _seconds(run: Callable[[], object]) -> float:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    synchronise()
    start = clock()
    run()
    synchronise()
    return clock() - start
