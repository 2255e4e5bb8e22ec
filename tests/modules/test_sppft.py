"""SPPFT with a Trainer: against a loop written by hand, and with layers that are found."""

import json

import pytest
import torch
from kit import tiny
from kit.tiny import as_pretrained, fine_tuner, save_tiny, tiny_data, tiny_trainer, trained_weights

from asft_lightning import SPPFT, ConfigurationError, LoRAFineTuner, Source


@pytest.fixture
def deep(tmp_path):
    """A pair of five layers."""
    return as_pretrained([save_tiny(tmp_path / name, seed, layers=5) for seed, name in enumerate(("aligned", "base"))])


def layer_of(name):
    return int(name.split(".layers.")[1].split(".")[0]) if ".layers." in name else None


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def sources(folder):
    rows = [{"instruction": f"say item {i}", "output": ""} for i in range(3)]
    return {"unsafe": tiny.unsafe_prompts(folder), "harmless": Source(tiny.write_rows(folder / "harmless.jsonl", rows))}


def test_run_is_plain_fine_tuning_of_the_other_layers(deep, tmp_path):
    torch.manual_seed(0)
    module = fine_tuner(LoRAFineTuner, deep)
    module.configure_model()
    weights = {name: p for name, p in module.named_parameters() if p.requires_grad and layer_of(name) not in (1, 3)}
    optimizer, data = sgd(list(weights.values())), tiny_data(deep, tmp_path, batch_size=4)
    data.setup()
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        module.task_loss(batch).backward()
        optimizer.step()

    torch.manual_seed(0)
    frozen = fine_tuner(SPPFT, deep, safety_layers=[3, 1], optimizer=sgd)
    tiny_trainer(tmp_path).fit(frozen, tiny_data(deep, tmp_path, batch_size=4))
    assert trained_weights(frozen).keys() == weights.keys()
    for name, value in trained_weights(frozen).items():
        torch.testing.assert_close(value, weights[name].detach(), rtol=1e-4, atol=1e-6)
    still = [p for name, p in frozen.named_parameters() if "lora_B" in name and layer_of(name) in (1, 3)]
    assert len(still) == 4 and not any(p.any() for p in still)
    assert frozen.fingerprint()["safety_layers"] == [1, 3]


def test_layers_are_found_by_the_cosines_of_the_aligned_model(deep, tmp_path):
    """From Transformers' own hidden states, a prompt at a time."""
    module = fine_tuner(SPPFT, deep, **sources(tmp_path))
    tiny_trainer(tmp_path, max_steps=1).fit(module, tiny_data(deep, tmp_path, batch_size=4))
    model, states = deep.load_model().eval(), {}
    for kind, source in sources(tmp_path).items():
        ids = [module.template.prompt_ids(module.tokenizer, row.prompt) for row in source.iterate()]
        with torch.no_grad():
            every = [model(torch.tensor([row]), output_hidden_states=True).hidden_states[1:] for row in ids]
        states[kind] = [[layer[0, -1].double() for layer in of_prompt] for of_prompt in every]
    cosine, gap = torch.nn.CosineSimilarity(dim=0), []
    for i in range(5):
        safe, unsafe = ([of_prompt[i] for of_prompt in states[kind]] for kind in ("harmless", "unsafe"))
        alike = [float(cosine(x, y)) for x in safe for y in safe if x is not y]
        apart = [float(cosine(x, y)) for x in safe for y in unsafe]
        gap.append(sum(alike) / len(alike) - sum(apart) / len(apart))

    found = json.loads((tmp_path / "safety_layers.json").read_text())
    assert found["cosine_gap"] == pytest.approx(gap, abs=1e-6)
    assert found["layers"] == module.fingerprint()["safety_layers"] and 0 < len(found["layers"]) <= 3
    trained = {layer_of(name) for name in trained_weights(module)}
    assert trained == set(range(5)) - set(found["layers"])


@pytest.mark.parametrize("layers", [[], [7], [0, 1, 2, 3, 4]])
def test_none_or_all_layers(deep, layers):
    message = r"needs safety layers among the layers that LoRA adapts, and others to train.* Name safety_layers, counted"
    with pytest.raises(ConfigurationError, match=message):
        fine_tuner(SPPFT, deep, safety_layers=layers).configure_model()


def test_neither_layers_nor_prompts(pretrained, tmp_path):
    for settings in ({}, {"unsafe": tiny.unsafe_prompts(tmp_path)}, {**sources(tmp_path), "num_prompts": 1}):
        with pytest.raises(ConfigurationError, match=r"SPPFT needs safety_layers, or unsafe and harmless prompts"):
            fine_tuner(SPPFT, pretrained, **settings)
