"""SaLoRA with a Trainer, against the paper's own W − C·B₀·A₀ + C·B·A written out densely in float64."""

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from asft_lightning import ConfigurationError, LoRAFineTuner, SaLoRA, Source
from asft_lightning.penalty import probed_prompts
from asft_lightning.weights.targets import find_lora_factors

RANKS = {"safety_rank": 3, "task_rank": 5, "num_prompts": 4}


def sources(folder):
    rows = [{"instruction": f"say item {i}", "output": ""} for i in range(4)]
    return {"unsafe": tiny.unsafe_prompts(folder), "task": Source(tiny.write_rows(folder / "task.jsonl", rows))}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.0)


class Dense(nn.Module):
    """One layer as the authors have it; A and B are free."""

    def __init__(self, weight, u, p, rank, scaling):
        super().__init__()
        left, sigma, right = torch.linalg.svd(weight)
        root = sigma[:rank].sqrt()
        self.c, self.scaling = torch.eye(len(weight), dtype=torch.float64) - u @ u.T, scaling
        self.a = nn.Parameter(root[:, None] * right[:rank])
        self.b = nn.Parameter(p @ p.T @ left[:, :rank] * root)
        self.start = (self.c @ self.b @ self.a).detach()
        self.rest = weight - scaling * self.start

    def update(self):
        return self.scaling * (self.c @ self.b @ self.a - self.start)

    def forward(self, x):
        return x @ (self.rest + self.scaling * self.c @ self.b @ self.a).T


def inputs_of(model, module, source, layers):
    """{layer: X (d_in, tokens)}: at the last token of each prompt, and at those of the model's own greedy answer to it."""
    found = {name: [] for name in layers}
    end = module.template.end(module.tokenizer).token_id
    for row in source.iterate():
        ids = module.template.prompt_ids(module.tokenizer, row.prompt)
        first = len(ids) - 1
        for _ in range(8):
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] == end:
                break
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, name=name, n=first: found[name].append(args[0][0, n:]))
            for name, layer in layers.items()
        ]
        model(torch.tensor([ids]))
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts).T for name, parts in found.items()}


def by_hand(pretrained, folder):
    """{layer: what a run makes of its weight}, from float64 copies of the aligned model's layers."""
    plain = fine_tuner(LoRAFineTuner, pretrained)
    plain.configure_model()
    aligned, model = pretrained.load_model().double().eval(), plain.model.get_base_model().double()
    layers = {name: layer for name, layer in aligned.named_modules() if name.endswith(("q_proj", "v_proj"))}
    with torch.no_grad():
        x = {kind: inputs_of(aligned, plain, source, layers) for kind, source in sources(folder).items()}
    dense = {}
    for name, layer in layers.items():
        weight = layer.weight.detach()
        u, p = (torch.linalg.svd(weight @ x[kind][name])[0][:, :k] for kind, k in (("unsafe", 3), ("task", 5)))
        dense[name] = Dense(weight, u, p, rank=4, scaling=2.0)
        model.set_submodule(name, dense[name])
    optimizer = adamw([parameter for layer in dense.values() for parameter in layer.parameters()])
    data = tiny_data(pretrained, folder, batch_size=4)
    data.setup()
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        plain.task_loss(batch).backward()
        optimizer.step()
    return dense


def test_run_is_the_papers_own(pretrained, tmp_path):
    module = fine_tuner(SaLoRA, pretrained, optimizer=adamw, **sources(tmp_path), **RANKS)
    tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    dense = by_hand(pretrained, tmp_path)
    assert module.model.peft_config["default"].r == 8
    for factor in find_lora_factors(module.model):
        expected, update = dense[factor.target.name], factor.scaling * (factor.b @ factor.a).detach().double()
        assert expected.update().norm() > 0.1
        torch.testing.assert_close(update, expected.update().detach(), rtol=1e-3, atol=1e-4)
        beyond = torch.eye(len(expected.c), dtype=torch.float64) - expected.c
        assert (beyond @ update).norm() < 1e-5 * update.norm()
    assert len(probed_prompts(module)) == 4


def test_it_begins_at_no_update(pretrained, tmp_path):
    """And what holds the start stays to the last bit, whatever is trained."""
    module = fine_tuner(SaLoRA, pretrained, **sources(tmp_path), **RANKS)
    starts = {}

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            for factor in find_lora_factors(pl_module.model):
                assert float((factor.b @ factor.a).detach().norm()) < 1e-6
                starts[factor.target.name] = factor.a[4:].detach().clone(), factor.b[:, 4:].detach().clone()

    tiny_trainer(tmp_path, callbacks=[Look()]).fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    for factor in find_lora_factors(module.model):
        a, b = starts[factor.target.name]
        assert torch.equal(factor.a[4:], a) and not torch.equal(factor.a[:4], a)
        torch.testing.assert_close(factor.b[:, 4:], b, rtol=0, atol=1e-6)


def test_without_a_task_all_of_the_rank_is_trained(pretrained, tmp_path):
    module = fine_tuner(SaLoRA, pretrained, unsafe=sources(tmp_path)["unsafe"], **RANKS)
    tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path, batch_size=4))
    found = module.find()
    assert {name.rpartition(".")[2] for name in found} == {"u"}
    for factor in find_lora_factors(module.model):
        u = found[f"{factor.target.name}.u"]
        assert bool(factor.b.any(dim=0).all()) and float((u.T @ factor.b).abs().max()) < 1e-6


@pytest.mark.parametrize("use_rslora", [False, True])
def test_twice_the_rank_has_the_scaling_of_once(pretrained, tmp_path, use_rslora):
    lora = {**tiny.LORA, "use_rslora": use_rslora, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5}}
    settings = {"unsafe": sources(tmp_path)["unsafe"], "lora": lora}
    once, twice = (
        find_lora_factors(fine_tuner(SaLoRA, pretrained, task=task, **settings).made_trainable(pretrained.load_model()))
        for task in (None, sources(tmp_path)["task"])
    )
    for single, double in zip(once, twice, strict=True):
        assert double.scaling == pytest.approx(single.scaling)
        assert double.a.shape[0] == 2 * single.a.shape[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"safety_rank": 0}, "needs num_prompts, safety_rank and task_rank of 1 or more"),
        ({"adapter": "a"}, "begins a new adapter, got .* adapter 'a'. Leave adapter out"),
    ],
)
def test_what_cannot_be(pretrained, tmp_path, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        fine_tuner(SaLoRA, pretrained, **sources(tmp_path), **settings)


def test_weights_that_decay(pretrained, tmp_path):
    module = fine_tuner(SaLoRA, pretrained, optimizer=torch.optim.AdamW, **sources(tmp_path))
    with pytest.raises(ConfigurationError, match="SaLoRA's start must stay as it is, and weight_decay takes it away"):
        tiny_trainer(tmp_path).fit(module, tiny_data(pretrained, tmp_path, batch_size=4))


def test_it_logs_what_every_method_does(pretrained, tmp_path):
    module = fine_tuner(SaLoRA, pretrained, **sources(tmp_path), **RANKS)
    tiny_trainer(tmp_path, logger=CSVLogger(tmp_path, "", ""), max_steps=1, log_every_n_steps=1).fit(
        module, tiny_data(pretrained, tmp_path)
    )
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/lr", "train/gradient_norm"} <= set(header)
