"""One step of the penalty, forward and backward, beside the authors' formula and beside a loop over modules."""

from collections.abc import Iterator, Sequence

import torch
from figures import Figure, paired
from peft import LoraConfig, get_peft_model
from synthetic import SHAPES, direction
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from asft_lightning import AnchorSet, Gram, UpdatePenalty
from asft_lightning.anchors import AnchorTerm, ModuleAnchor
from asft_lightning.functional import gram_map

Factors = list[tuple[nn.Parameter, nn.Parameter]]


def measure(repeats: int, device: str) -> Iterator[Figure]:
    """One module; all 64 of q and v; all 224 of Llama-2-7B."""
    maps = {shape: ModuleAnchor.of_map(gram_map(direction(shape, device))) for shape in set(SHAPES.values())}
    yield _one(maps, repeats, device)
    yield _all(maps, ["q_proj", "v_proj"], repeats, device)
    yield _all(maps, [name.partition(".")[2] for name in SHAPES], repeats, device)


def _one(maps: dict[tuple[int, int], ModuleAnchor], repeats: int, device: str) -> Figure:
    penalty, factors = _bound(maps, ["q_proj"], 1, device)
    v = direction((4096, 4096), device)
    c = v @ v.mT / torch.linalg.matrix_norm(v)

    def authors() -> Tensor:
        """What their script computes for a module at each step, but for the copy of C from the host."""
        ((a, b),) = factors
        return torch.norm((torch.eye(4096, device=device) - c) @ (b @ a)) ** 2

    times = paired(lambda: _step(penalty(), factors), lambda: _step(authors(), factors), repeats, warm_up=2)
    return Figure("penalty", "one 4096×4096, r 8", "authors' formula", *times, _notes(penalty, factors))


def _all(maps: dict[tuple[int, int], ModuleAnchor], targets: Sequence[str], repeats: int, device: str) -> Figure:
    penalty, factors = _bound(maps, targets, 32, device)
    forms = {shape: (anchor.out.directions.to(device), anchor.out.weights.to(device)) for shape, anchor in maps.items()}

    def one_by_one() -> Tensor:
        """What a careful user would write: the same factored form, module by module, under autograd."""
        loss = torch.zeros((), device=device)
        for a, b in factors:
            u, w = forms[b.shape[0], a.shape[1]]
            inside = u.mT @ b
            outside = b - u @ inside
            loss = loss + ((outside.mT @ outside + inside.mT @ (w[:, None] * inside)) * (a @ a.mT)).sum()
        return loss

    times = paired(lambda: _step(penalty(), factors), lambda: _step(one_by_one(), factors), repeats, warm_up=2)
    kernels = f"{_kernels(lambda: _step(penalty(), factors))} / {_kernels(lambda: _step(one_by_one(), factors))}"
    notes = {"kernels": kernels, **_notes(penalty, factors)}
    return Figure("penalty", f"{len(factors)} modules of Llama-2-7B", "a loop over modules", *times, notes)


def _bound(
    maps: dict[tuple[int, int], ModuleAnchor], targets: Sequence[str], layers: int, device: str
) -> tuple[UpdatePenalty, Factors]:
    """UpdatePenalty on LoRA factors of Llama-2-7B's shapes; the model's own weights are never made."""
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=layers, **sizes))
        model = get_peft_model(model, LoraConfig(r=8, target_modules=list(targets)))
    shapes, factors = {}, []
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            for half in (module.lora_A["default"], module.lora_B["default"]):
                half.weight = nn.Parameter(torch.zeros(half.weight.shape, device=device))
            factors.append((module.lora_A["default"].weight, module.lora_B["default"].weight))
            shapes[name.removeprefix("base_model.model.")] = (module.out_features, module.in_features)
    term = AnchorTerm(Gram().settings(), 1.0, {name: maps[shape] for name, shape in shapes.items()})
    penalty = UpdatePenalty(model, AnchorSet(shapes, (term,))).to(device)
    for factor in (factor for pair in factors for factor in pair):
        nn.init.normal_(factor, std=0.01)
    return penalty, factors


def _step(loss: Tensor, factors: Factors) -> None:
    for factor in (factor for pair in factors for factor in pair):
        factor.grad = None
    loss.backward()


def _notes(penalty: UpdatePenalty, factors: Factors) -> dict[str, object]:
    size = sum(buffer.numel() * buffer.element_size() for buffer in penalty.buffers())
    weights = 2 * sum(b.shape[0] * a.shape[1] for a, b in factors)
    kept = sorted({form.out_directions.shape[-1] for group in penalty.groups for form in group.terms})
    return {
        "directions": " and ".join(map(str, kept)),
        "anchors": f"{size / 2**20:.0f} MiB, {size / weights:.1%} of the weights in bfloat16",
    }


class _Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.count += not any(returned.alias_info for returned in func._schema.returns)  # views compute nothing
        return func(*args, **(kwargs or {}))


def _kernels(run) -> int:  # noqa: ANN001
    with _Counter() as counter:
        run()
    return counter.count
