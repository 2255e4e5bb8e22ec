"""The divergence of answers: against one prompt at a time in float64, its file, and what must not be."""

from copy import deepcopy

import pytest
import torch
from kit.activations import adapted, probe, prompts, speaking_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, safe_open, save_file

from asft_lightning import AnswerPenalty, Answers, Source
from asft_lightning.anchors import KeptAnswers
from asft_lightning.errors import AnchorError, UnpenalisedError
from asft_lightning.penalty import probed_prompts
from asft_lightning.weights.matrices import open_weights

TOKENS = 6
KINDS = ["llama", "qwen2", "gemma2", "gpt2"]


def kept(model, folder, count=5):
    rows = list(prompts(folder, count).iterate())
    return probe(model).answers(rows, TOKENS, batch_size=2)


def divergence(aligned, model, answers, rows):
    """The mean over all answer positions of these rows, each row for itself, in the models' dtype."""
    found = []
    for row in rows:
        start, end = int(answers.prompt_lengths[row]), int(answers.lengths[row])
        ids = answers.input_ids[row : row + 1, :end]
        expected, current = (net(input_ids=ids).logits[0, start - 1 :].log_softmax(-1) for net in (aligned, model))
        found.append((expected.detach().exp() * (expected.detach() - current)).sum(-1))
    return torch.cat(found).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0, 1, 2])
def test_value_and_gradient_are_those_of_one_answer_at_a_time(tmp_path, kind, step):
    """Gemma 2 caps its logits; GPT-2 ties its head to the embeddings and has none of its own in the file."""
    aligned = speaking_model(kind).double()
    model, answers = adapted(deepcopy(aligned), kind), kept(aligned, tmp_path)
    assert answers.hidden.dtype == torch.float64
    penalty = AnswerPenalty(model, answers, rows_per_step=2)
    trained = [p for p in model.parameters() if p.requires_grad]

    found = penalty(model, step)
    expected = divergence(aligned, model, answers, penalty.rows_of(step))
    assert float(expected.detach()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    for gradient, other in zip(torch.autograd.grad(found, trained), torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-12)


def test_it_is_zero_where_nothing_has_changed_and_above_it_elsewhere(tmp_path):
    aligned = speaking_model()
    answers = kept(aligned, tmp_path)
    untouched = get_peft_model(deepcopy(aligned), LoraConfig(target_modules=["q_proj"]))
    assert float(AnswerPenalty(untouched, answers)(untouched, 0).detach()) == pytest.approx(0.0, abs=1e-6)
    model = adapted(deepcopy(aligned))
    assert float(AnswerPenalty(model, answers)(model, 0).detach()) > 1e-3


def test_answers_are_the_models_own(tmp_path):
    """Greedy ones, each token the likeliest after those before it, which the kept states say too."""
    aligned = speaking_model()
    answers = kept(aligned, tmp_path)
    for row, (start, end) in enumerate(zip(answers.prompt_lengths.tolist(), answers.lengths.tolist(), strict=True)):
        likeliest = aligned.lm_head(answers.hidden[row]).argmax(-1)
        assert likeliest[: end - start].tolist() == answers.input_ids[row, start:end].tolist()
        assert end - start == TOKENS or likeliest[end - start] == aligned.config.eos_token_id


def test_all_answers_come_in_turn_by_the_step_alone(tmp_path):
    aligned = speaking_model()
    model, answers = adapted(deepcopy(aligned)), kept(aligned, tmp_path)
    penalty, other = (AnswerPenalty(model, answers, rows_per_step=2, seed=seed) for seed in (0, 1))
    rows = [row for step in range(10) for row in penalty.rows_of(step)]
    assert [sorted(rows[turn : turn + 5]) for turn in range(0, 20, 5)] == [[0, 1, 2, 3, 4]] * 4
    assert rows[:5] != rows[5:10]
    assert penalty.rows_of(7) == rows[14:16]
    assert rows != [row for step in range(10) for row in other.rows_of(step)]


def test_states_keep_their_precision_and_stay_out_of_checkpoints(tmp_path):
    aligned = speaking_model()
    model, answers = adapted(deepcopy(aligned)), kept(aligned, tmp_path)
    penalty = AnswerPenalty(model, answers).to(torch.bfloat16)
    assert torch.equal(penalty.hidden, answers.hidden) and penalty.input_ids.dtype == torch.int64
    assert not penalty.state_dict()
    assert len(probed_prompts(penalty)) == 5


def test_a_compiled_model_is_compared_as_any(tmp_path):
    aligned = speaking_model()
    model, answers = adapted(deepcopy(aligned)), kept(aligned, tmp_path)
    penalty = AnswerPenalty(model, answers)
    expected = float(penalty(model, 0).detach())
    model.compile(backend="eager")
    model(input_ids=answers.input_ids)  # traced without the comparison
    assert float(penalty(model, 0).detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "lora", [{"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}]
)
def test_a_head_that_is_trained_is_refused(tmp_path, lora):
    aligned = speaking_model()
    answers = kept(aligned, tmp_path)
    with pytest.raises(
        UnpenalisedError, match=r"an anchor on answers or states needs a frozen head, and lm_head is trained\. Leave it"
    ):
        AnswerPenalty(get_peft_model(deepcopy(aligned), LoraConfig(**lora)), answers)


def test_states_of_another_model_are_refused(tmp_path):
    answers = kept(speaking_model(), tmp_path)
    wider = adapted(speaking_model(hidden_size=32))
    with pytest.raises(UnpenalisedError, match=r"states of this model, of width 32, and has some of width 16"):
        AnswerPenalty(wider, answers)


def test_a_file_is_read_back_exactly(tmp_path):
    expected = kept(speaking_model(), tmp_path)
    expected.save(tmp_path / "answers.safetensors")
    found = KeptAnswers.load(tmp_path / "answers.safetensors")
    assert found.sha256() == expected.sha256() and found.prompts == expected.prompts
    assert torch.equal(found.hidden, expected.hidden) and torch.equal(found.input_ids, expected.input_ids)


def test_a_file_is_read_where_another_device_is_the_default(tmp_path):
    # As Lightning's is the GPU while a model is configured.
    expected = kept(speaking_model(), tmp_path)
    expected.save(tmp_path / "answers.safetensors")
    with torch.device("meta"):
        found = KeptAnswers.load(tmp_path / "answers.safetensors")
        assert found.sha256() == expected.sha256()


UNSOUND = {
    "hidden": (lambda t: torch.full_like(t["hidden"], float("nan")), "hidden states must be finite"),
    "input_ids": (lambda t: t["input_ids"] - 1000, "each row must hold a prompt, an answer"),
    "lengths": (lambda t: t["lengths"] + 1000, "each row must hold a prompt, an answer"),
    "prompt_lengths": (lambda t: t["prompt_lengths"] * 0, "each row must hold a prompt, an answer"),
    "lengths of another type": (lambda t: t["lengths"].float(), "ids and lengths must be int64"),
    "rows": (lambda t: t["input_ids"][:0], "one row or more"),
    "content": (lambda t: t["hidden"] * 2, "its content is not what was written"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_a_file_that_does_not_fit_is_refused(tmp_path, case):
    change, rule = UNSOUND[case]
    names = {"lengths of another type": "lengths", "rows": "input_ids", "content": "hidden"}
    path = tmp_path / "answers.safetensors"
    kept(speaking_model(), tmp_path).save(path)
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(path)
    tensors[names.get(case, case)] = change(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(AnchorError, match=rf"{path} cannot be read as answers \(.*{rule}.*Build them again"):
        KeptAnswers.load(path)


def test_answers_are_built_once_for_a_model_and_its_prompts(tmp_path):
    aligned = speaking_model()
    aligned.save_pretrained(tmp_path / "model")
    settings, weights = Answers(prompts(tmp_path), max_new_tokens=TOKENS), open_weights(str(tmp_path / "model"))
    first = settings.build(probe(aligned), weights)

    def is_not_run():
        raise AssertionError

    assert settings.build(probe(is_not_run), weights).sha256() == first.sha256()
    for other in (
        Answers(prompts(tmp_path), max_new_tokens=TOKENS - 1),
        Answers(prompts(tmp_path, 4), max_new_tokens=TOKENS),
    ):
        assert other.build(probe(aligned), weights).sha256() != first.sha256()


@pytest.mark.parametrize(
    "settings", [{"weight": 0.0}, {"weight": float("nan")}, {"rows_per_step": 0}, {"num_prompts": 0}, {"max_new_tokens": -1}]
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(AnchorError, match=r"Answers needs num_prompts, .* and a weight above 0, got"):
        Answers(Source("sandbox:harmful"), **settings)


def test_harmless_prompts_are_held_beside_the_unsafe_ones(tmp_path):
    both = Answers(prompts(tmp_path), harmless=prompts(tmp_path, first=50), num_prompts=3)
    assert [row.prompt[-2:].strip() for row in both.rows()] == ["0", "1", "2", "50", "51", "52"]
