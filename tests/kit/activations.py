"""What prompts put into a model's layers, once more and naively: one prompt at a time, all kept, dense, in float64."""

import statistics
from copy import deepcopy

import torch
from peft import LoraConfig, get_peft_model

from asft_lightning.anchors import Probe
from asft_lightning.data import Source
from kit import tiny
from kit.models import TARGETS, tiny_model

ANSWER_TOKENS = 8


class OneLayer(torch.nn.Module):
    """Logits (y, 0), y = 3·token + 1 what one layer puts out for a token: the margin is |y|, of gradient ±1."""

    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Embedding(4, 1, _weight=torch.arange(4.0)[:, None])
        self.layer = torch.nn.Linear(1, 1)
        self.layer.weight.data, self.layer.bias.data = torch.tensor([[3.0]]), torch.tensor([1.0])
        self.requires_grad_(False)

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask, use_cache):
        y = self.layer(self.embeddings(input_ids))
        return type("Output", (), {"logits": torch.cat([y, torch.zeros_like(y)], dim=-1)})


def speaking_model(kind="llama", seed=0, **config):
    """A plain model for the byte-level tokenizer, with weights large enough that attention tells tokens apart."""
    spread = {"initializer_range": 0.3, "vocab_size": 262, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return tiny_model(kind, seed, **spread | config).eval()


def adapted(model, kind="llama", **lora):
    """``model`` itself under an adapter with B·A ≠ 0."""
    torch.manual_seed(5)
    settings = {"r": 4, "target_modules": TARGETS[kind], "init_lora_weights": False}
    return get_peft_model(model, LoraConfig(**settings | lora))


def prompts(folder, count=5, first=0):
    """A source of prompts of different lengths, without answers."""
    rows = [{"instruction": f"how to {'open ' * (i % 3)}lock {i}", "output": ""} for i in range(first, first + count)]
    return Source(tiny.write_rows(folder / f"prompts-{first}-{count}.jsonl", rows))


def probe(model, **settings):
    return Probe(model, tiny.tiny_tokenizer(), **settings)


def begun(model, ids):
    """``ids`` and the model's own first answer tokens after them, the likeliest each, up to the end token."""
    end = model.config.eos_token_id
    for _ in range(ANSWER_TOKENS):
        following = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if following == end:
            break
        ids = [*ids, following]
    return ids


@torch.no_grad()
def inputs_of(model, texts, names, tokens="all"):
    """{name: x (n, d) in float64} of these layers of a plain model, of the tokens that count."""
    found = {name: [] for name in names}
    for ids in texts:
        whole = begun(model, ids) if tokens == "answer" else ids
        first = 0 if tokens == "all" else len(ids) - 1
        handles = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, args, kept=found[name], first=first: kept.append(args[0][0, first:].double())
            )
            for name in names
        ]
        model(input_ids=torch.tensor([whole]))
        for handle in handles:
            handle.remove()
    return {name: torch.cat(kept) for name, kept in found.items()}


def with_noise(x, ridge):
    """E[x xᵀ] (d, d) of inputs and of white noise with this share of their energy."""
    g = x.mT @ x / len(x)
    return g + ridge * g.trace() / len(g) * torch.eye(len(g), dtype=g.dtype)


def relative_change(updates, weights, inputs, ridge=0.0):
    """L·Σ E‖ΔW x‖² / E‖W x‖² over L layers, a scalar; {name: matrix or inputs} each, in float64."""
    changes = []
    for name, x in inputs.items():
        g, w = with_noise(x, ridge), weights[name].double()
        changes.append((updates[name] @ g * updates[name]).sum() / (w @ g * w).sum())
    return len(changes) * torch.stack(changes).sum()


def sensitivity_of(model, texts, names):
    """Median over prompts of the mean over layers of Σ_t ‖∂m/∂y_t‖²‖W x_t‖² / m², m = log p − log(1 − p) of the likeliest
    first answer token."""
    model = deepcopy(model).double()
    ratios = []
    for ids in texts:
        put_out, handles = {}, []
        for name in names:

            def keep(layer, args, out, name=name, put_out=put_out):
                out.retain_grad()
                put_out[name] = (out, 0.0 if getattr(layer, "bias", None) is None else layer.bias)

            handles.append(model.get_submodule(name).register_forward_hook(keep))
        p = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(dim=0)
        m = p.max().log() - torch.log1p(-p.max())
        m.backward()
        of_layers = [(out.grad.square().sum(-1) * (out - bias).square().sum(-1)).sum() for out, bias in put_out.values()]
        ratios.append(float(torch.stack(of_layers).mean() / m**2))
        for handle in handles:
            handle.remove()
    return statistics.median(ratios)


def margins_of(model, ids):
    """(text, margins): ``ids`` with the model's first 3 answer tokens; the margin of each of its first 4."""
    text = begun(model, ids)[: len(ids) + 3]
    p = model(input_ids=torch.tensor([text])).logits[0, len(ids) - 1 :].softmax(dim=-1).amax(dim=-1)
    return text, p.log() - torch.log1p(-p)


def outputs_gradients_of(model, texts, names):
    """{name: [(g, x) a text]}: (tokens, d) each in float64, g = ∂μ/∂y of the mean μ of margins as shares of themselves."""
    model = deepcopy(model).double()
    found = {name: [] for name in names}
    for ids in texts:
        seen, handles = {}, []
        for name in names:

            def keep(_, args, out, name=name, seen=seen):
                out.retain_grad()
                seen[name] = (out, args[0].detach()[0])

            handles.append(model.get_submodule(name).register_forward_hook(keep))
        _, margins = margins_of(model, ids)
        (margins / margins.detach().abs().clamp_min(1.0)).mean().backward()
        for name, (out, x) in seen.items():
            found[name].append((out.grad[0], x))
        for handle in handles:
            handle.remove()
    return found
