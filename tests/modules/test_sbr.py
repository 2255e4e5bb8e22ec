"""SBR with a Trainer: against a loop written by hand, under accumulation, resumed, and what is refused."""

from dataclasses import replace

import pytest
import torch
from kit import tiny
from kit.tiny import LORA, EndAfter, fine_tuner, logged_run, tiny_data, tiny_trainer, trained_weights
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import SBR, ConfigurationError, LoRAFineTuner, SafetyEvaluation, UnpenalisedError
from asft_lightning.errors import DataError


@pytest.fixture
def exact(pretrained):
    """The tiny pair in float64: what differs is then more than rounding."""
    return replace(pretrained, dtype="float64")


@pytest.fixture
def prompts(tmp_path):
    return tiny.unsafe_prompts(tmp_path)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def last_states(model, module, prompts):
    """Transformers' last hidden state where an answer would begin, each prompt for itself."""
    ids = [module.template.prompt_ids(module.tokenizer, row.prompt, row.history) for row in prompts.iterate()]
    states = [model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -1] for row in ids]
    return torch.stack(states)


def by_hand(pair, folder, prompts, weight, adapter):
    """The authors' algorithm: {name: weight} after an epoch of plain SGD."""
    torch.manual_seed(0)
    module = fine_tuner(LoRAFineTuner, pair, adapter=adapter)
    module.configure_model()
    reference = last_states(pair.load_model(), module, prompts).detach()
    weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer, data = sgd(list(weights.values())), tiny_data(pair, folder, batch_size=4)
    data.setup()
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        distance = (last_states(module.model, module, prompts) - reference).square().mean()
        (module.task_loss(batch) + weight * distance).backward()
        optimizer.step()
    return {name: p.detach() for name, p in weights.items()}


@pytest.mark.parametrize("goes_on", [False, True])
def test_run_is_the_authors_algorithm(exact, tmp_path, prompts, goes_on):
    """An adapter that goes on is held to the aligned model, not to itself."""
    adapter = tiny.write_adapter(tmp_path / "adapter", exact) if goes_on else None
    expected = by_hand(exact, tmp_path, prompts, weight=3.0, adapter=adapter)
    torch.manual_seed(0)
    module = fine_tuner(SBR, exact, prompts=prompts, weight=3.0, adapter=adapter, optimizer=sgd)
    steps = logged_run(module, exact, tmp_path)
    for name, weight in trained_weights(module).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-7, atol=1e-10)
    assert all(step["train/state_distance"] > 1e-5 for step in steps[1:])
    assert (steps[0]["train/state_distance"] > 1e-5) == goes_on
    assert module.fingerprint()["answers_sha256"] == module.kept_answers.sha256()


def test_the_weight_means_the_same_under_accumulation(exact, tmp_path, prompts):
    """Batches of 8 in one piece or in four: the same steps."""

    def trained(batch_size, pieces):
        torch.manual_seed(0)
        module = fine_tuner(SBR, exact, prompts=prompts, weight=5.0, loss_reduction="row", optimizer=sgd)
        trainer = tiny_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=pieces)
        trainer.fit(module, tiny_data(exact, tmp_path, batch_size=batch_size))
        assert trainer.global_step == 4
        return trained_weights(module)

    whole, parts = trained(8, 1), trained(2, 4)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("ended_after", [2, 3, 5])
def test_a_resumed_run_is_the_same_run(pretrained, tmp_path, prompts, ended_after):
    def fit(folder, callbacks=(), checkpoint=None):
        torch.manual_seed(0)
        module = fine_tuner(SBR, pretrained, prompts=prompts, lora=LORA | {"lora_dropout": 0.3})
        saver = ModelCheckpoint(folder, save_last=True, save_on_exception=True, every_n_train_steps=1000)
        trainer = tiny_trainer(
            folder, callbacks=[saver, *callbacks], max_epochs=2, enable_checkpointing=True, accumulate_grad_batches=2
        )
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=4), ckpt_path=checkpoint)
        return trained_weights(module)

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="ended"):
        fit(tmp_path / "run", [EndAfter(ended_after)])
    again = fit(tmp_path / "run", checkpoint=next((tmp_path / "run").glob("*.ckpt")))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_prompts_that_are_held_are_not_scored(pretrained, tmp_path, prompts):
    scorer = SafetyEvaluation(prompts, max_new_tokens=2)
    with pytest.raises(DataError, match="that an anchor was built from"):
        tiny_trainer(tmp_path, callbacks=[scorer]).fit(
            fine_tuner(SBR, pretrained, prompts=prompts), tiny_data(pretrained, tmp_path)
        )


def test_what_cannot_be(pretrained, prompts):
    for settings, shown in (
        ({"num_prompts": 0}, "0 and 50.0"),
        ({"weight": 0.0}, "8 and 0.0"),
        ({"weight": float("nan")}, "8 and nan"),
    ):
        with pytest.raises(ConfigurationError, match=rf"SBR needs num_prompts of 1 or more .*, got {shown}\. The authors'"):
            SBR(pretrained, prompts=prompts, **settings)
    with pytest.raises(ConfigurationError, match=r"SBR keeps an aligned model aligned, and pretrained.start is base"):
        SBR(replace(pretrained, start="base"), prompts=prompts)
    with pytest.raises(UnpenalisedError, match=r"must not begin without its answers: call bind_answers"):
        SBR(pretrained, prompts=prompts).regularisation()
