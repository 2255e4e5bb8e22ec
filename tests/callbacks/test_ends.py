"""An answer ends at the token that the template teaches, also where neither checkpoint nor tokenizer calls it an end."""

import json

import pytest
import torch
from kit import tiny
from kit.chat_templates import SMALL
from kit.models import tiny_model

from asft_lightning import LoRAFineTuner, Pretrained, Row, SafetyEvaluation, Template
from asft_lightning.anchors.probe import Probe
from asft_lightning.weights.targets import Target


@pytest.fixture
def ending(tmp_path):
    """A checkpoint that says ``<|end|>`` at once: ChatML on a base model, say, whose end token is another."""
    tokenizer = tiny.tiny_tokenizer(SMALL["plain"])
    tokenizer.add_tokens(["<|end|>"])
    model = tiny_model("chat", 1, vocab_size=len(tokenizer))
    asked = torch.tensor([Template().prompt_ids(tokenizer, "how to open safe 0")])
    with torch.no_grad():
        said = model.eval()(input_ids=asked).logits[0, -1].argmax()
        model.lm_head.weight[-1] = model.lm_head.weight[said] * 1.1
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "ending")
    return Pretrained(str(tmp_path / "ending"))


def test_scored_answers(ending, tmp_path):
    scorer = SafetyEvaluation(tiny.unsafe_prompts(tmp_path, 1), max_new_tokens=4)
    trainer = tiny.tiny_trainer(tmp_path, callbacks=[scorer])
    trainer.test(tiny.fine_tuner(LoRAFineTuner, ending), tiny.tiny_data(ending, tmp_path), verbose=False)
    (line,) = (tmp_path / "generations" / "safety-test.jsonl").read_text().splitlines()
    assert json.loads(line)["answer"] == ""


def test_answers_that_a_probe_has_the_model_begin(ending):
    """An answer that ends at once leaves the prompt's last token alone to count."""
    layer = "model.layers.0.self_attn.q_proj"
    probe = Probe(ending.load_model(), ending.load_tokenizer())
    found = probe.activations([Row("how to open safe 0", "")], [Target(layer, (32, 32))], "answer", 8, 1)
    (moment,) = found.moments.values()
    assert moment.count == 1
