"""Full fine-tuning: what the penalty on whole weight matrices adds to a step and to memory, at SmolLM2-135M's shapes."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from figures import Figure
from synthetic import direction
from training import steps
from transformers import AutoModelForCausalLM, LlamaConfig

from asft_lightning import AnchorSet, FullAsFT, Gram, Pretrained, Shrinkage
from asft_lightning.anchors import Anchor, AnchorTerm, ModuleAnchor
from asft_lightning.functional import gram_map
from asft_lightning.weights.trained_weights import trained_targets

SMOLLM2 = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True,
)  # fmt: skip


def measure(repeats: int, device: str) -> Iterator[Figure]:
    """Weights are random; ``Gram``'s directions are those of a synthetic V."""
    for targets in (["q_proj", "v_proj"], "all-linear"):
        for anchor in (Shrinkage(), Gram()):
            yield _figure(targets, anchor, repeats, device)


def _figure(targets: list[str] | str, anchor: Anchor, repeats: int, device: str) -> Figure:
    module = FullAsFT(Pretrained("random"), targets, anchors=[anchor])
    module.model = module.made_trainable(AutoModelForCausalLM.from_config(SMOLLM2, dtype=torch.bfloat16))
    shapes = {target.name: target.shape for target in trained_targets(module.model)}
    maps = {shape: _anchor(anchor, shape, device) for shape in set(shapes.values())}
    term = AnchorTerm(anchor.settings(), 1.0, {name: maps[shape] for name, shape in shapes.items()})
    module.bind(AnchorSet(shapes, (term,)))
    assert module.penalty is not None
    label = f"{type(anchor).__name__}, {targets if isinstance(targets, str) else ' and '.join(targets)}"
    figure = steps(module, f"FullAsFT step, {label}", module.penalty, repeats, device, rival="full SFT step")
    kept = sum(buffer.nbytes for buffer in module.penalty.buffers())
    trained = sum(parameter.nbytes for parameter in module.trainable_parameters())
    notes = {"kept": f"{kept / 2**20:.0f} MiB beside {trained / 2**20:.0f} of trained weights"}
    return replace(figure, part="full", notes={**figure.notes, **notes})


def _anchor(anchor: Anchor, shape: tuple[int, int], device: str) -> ModuleAnchor:
    return ModuleAnchor.of_map(gram_map(direction(shape, device))) if isinstance(anchor, Gram) else ModuleAnchor()
