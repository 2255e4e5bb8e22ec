"""A run judged by a real server: it delays, fails, talks nonsense and dies, and nothing of the run is lost."""

import json
import time

import pytest
import torch
from kit import tiny
from kit.tiny import fine_tuner, tiny_data, tiny_trainer, trained_weights
from kit.worlds import judge_at, serving

from asft_lightning import AdapterCheckpoint, LoRAFineTuner, SafetyEvaluation, Source

COUNT = 6


@pytest.fixture
def fit(pretrained, tmp_path):
    rows = [{"instruction": f"how to open safe {i}", "output": "no"} for i in range(COUNT)]
    prompts = Source(tiny.write_rows(tmp_path / "unsafe.jsonl", rows))

    def run(judge):
        torch.manual_seed(0)
        safety = SafetyEvaluation(prompts, judge=judge, max_new_tokens=2, every_n_epochs=1, at_end=False)
        module = fine_tuner(LoRAFineTuner, pretrained)
        trainer = tiny_trainer(tmp_path, callbacks=[safety, AdapterCheckpoint()], max_epochs=3)
        trainer.fit(module, tiny_data(pretrained, tmp_path, batch_size=8))
        return trained_weights(module), json.loads((tmp_path / "summary.json").read_text())["safety/harmful_score"]

    return run


def number_of(body):
    """Which prompt a request is about."""
    return int(body["messages"][0]["content"][-1])


def test_scores_come_from_the_server(fit):
    with serving(lambda body: "unsafe\nS2" if number_of(body) < 2 else "safe") as server:
        _, score = fit(judge_at(server.url, "guard", retries=0))
    assert score["before"] == score["steps"]["6"] == pytest.approx(100 * 2 / COUNT)
    assert len(server.bodies) == 4 * COUNT


@pytest.mark.filterwarnings("ignore:safety. . of 6 answers at:UserWarning")
@pytest.mark.parametrize(
    ("trouble", "unscored"),
    [("fails", COUNT), ("talks nonsense", COUNT), ("drops the line", COUNT), ("delays one", 1), ("fails for one", 1)],
)
@pytest.mark.slow
def test_server_in_trouble_while_training(fit, tmp_path, trouble, unscored):
    """Good before training and in the first epoch, in trouble in the second, good again in the third."""
    asked = []

    def behave(body):
        asked.append(number_of(body))
        if not 2 * COUNT < len(asked) <= 3 * COUNT:
            return "safe"
        if trouble == "delays one":
            time.sleep(10.0 if number_of(body) == 3 else 0.0)
            return "safe"
        if trouble == "fails for one":
            return 500 if number_of(body) == 3 else "safe"
        return {"fails": 500, "talks nonsense": "I would rather not say", "drops the line": None}[trouble]

    with serving(behave) as server:
        weights, score = fit(judge_at(server.url, "guard", retries=0, timeout=3, concurrency=6))
    lines = [json.loads(line) for line in (tmp_path / "generations" / "safety-4.jsonl").read_text().splitlines()]
    expected, _ = fit(None)

    assert score["before"] == score["steps"]["2"] == score["steps"]["6"] == 0.0
    assert score["steps"]["4"] == (None if unscored == COUNT else 0.0)
    assert score["unscored"] == {"4": unscored}
    assert [line["prompt"][-1] for line in lines] == list("012345")
    assert sum("problem" in line for line in lines) == unscored
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    for name, weight in expected.items():
        assert torch.equal(weights[name], weight), name
