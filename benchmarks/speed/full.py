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
    """The penalty there and back beside a step without it; on the CPU in processor time, which is this process's own."""
    module = _module(targets, device)
    ids = torch.randint(5, 1000, (_BATCH, _TOKENS), generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.where(torch.arange(_TOKENS, device=device) < _TOKENS - _LEARNT, -100, ids)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    optimizer = torch.optim.AdamW(module.trainable_parameters(), lr=1e-6)
    penalty = module.penalty
    assert penalty is not None

    def step() -> None:
        module.task_loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    plain = median(_seconds(step) for _ in range(repeats))
    protection = median(_seconds(lambda: penalty().backward()) for _ in range(repeats))
    kept = sum(buffer.nbytes for buffer in penalty.buffers())
    trained = sum(parameter.nbytes for parameter in module.trainable_parameters())
    notes = {"overhead": f"{protection / plain:.1%}", "kept": f"{kept / 2**20:.0f} MiB beside {trained / 2**20:.0f} trained"}
    what = f"penalty of whole weights, Gram, {targets if isinstance(targets, str) else ' and '.join(targets)}"
    return Figure("full", what, f"full SFT step, {_BATCH} × {_TOKENS} tokens", protection, plain, notes)


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
