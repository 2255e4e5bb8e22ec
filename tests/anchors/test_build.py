import weakref

import pytest
import torch
from kit.models import TARGETS, Pair, tiny_model, tiny_pair, with_lora
from kit.references import dense_gram, relative_error
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, Phi3Config, PreTrainedModel

from asft_lightning.anchors import AnchorSet, Gram, Shrinkage, Subspace, build_anchors
from asft_lightning.errors import AnchorError, AsFTError, ConfigurationError, UnpenalisedError
from asft_lightning.weights import matrices

TWO = [Gram(), Subspace(num_directions=2)]


def build(model: nn.Module, aligned, base, anchors=TWO) -> AnchorSet:
    return build_anchors(model, aligned, base, anchors, progress=False)


def pickled_shards(model: PreTrainedModel, folder) -> None:
    state = dict(model.state_dict())
    files = {name: f"pytorch_model-{i % 2 + 1:05d}-of-00002.bin" for i, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in files if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {files}}}'.replace("'", '"'))


def sharded(model: PreTrainedModel, folder) -> None:
    model.save_pretrained(folder, max_shard_size="6KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def saved(write):
    """A way to write a model, as a way to turn it into a source."""

    def source(model: PreTrainedModel, folder):
        folder.mkdir()
        write(model, folder)
        return folder

    return source


SOURCES = {
    "mapping": lambda model, folder: model.state_dict(),
    "adapted module": lambda model, folder: with_lora(model, target_modules=TARGETS[model.config.model_type]),
    "compiled module": lambda model, folder: torch.compile(model),
    "single": saved(lambda model, folder: model.save_pretrained(folder)),
    "sharded": saved(sharded),
    "pickled": saved(lambda model, folder: torch.save(model.state_dict(), folder / "pytorch_model.bin")),
    "pickled shards": saved(pickled_shards),
    "bare backbone": saved(lambda model, folder: model.base_model.save_pretrained(folder)),
    "bare backbone's module": lambda model, folder: model.base_model,
}


@pytest.fixture(scope="module", params=TARGETS)
def pair_and_expected(request) -> tuple[Pair, PeftModel, str]:
    pair = tiny_pair(request.param)
    model = with_lora(pair.aligned, target_modules=TARGETS[pair.kind])
    return pair, model, build(model, pair.aligned, pair.base).sha256()


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_anchors(pair_and_expected, source, tmp_path):
    pair, model, expected = pair_and_expected
    aligned, base = (SOURCES[source](m, tmp_path / n) for n, m in (("aligned", pair.aligned), ("base", pair.base)))
    assert build(model, aligned, base).sha256() == expected


def test_the_model_may_lie_on_the_meta_device(pair_and_expected):
    pair, _, expected = pair_and_expected
    with torch.device("meta"):
        model = with_lora(type(pair.aligned)(pair.aligned.config), target_modules=TARGETS[pair.kind])
    assert build(model, pair.aligned, pair.base).sha256() == expected


@pytest.mark.parametrize("kind", TARGETS)
def test_each_module_gets_the_map_of_its_own_direction(kind):
    pair = tiny_pair(kind)
    found = build(with_lora(pair.aligned, target_modules=TARGETS[kind]), pair.aligned, pair.base, [Gram(tolerance=0)])
    for name, anchor in found.terms[0].modules.items():
        v = pair.direction(name)
        complement = torch.eye(v.shape[0], dtype=torch.float64) - dense_gram(v)
        assert relative_error(anchor.out.dense(), complement @ complement) < 1e-6
        assert anchor.spectrum.norm == pytest.approx(float(torch.linalg.matrix_norm(v)), rel=1e-9)


def test_sixteen_bit_checkpoints_are_subtracted_in_float64():
    pair = tiny_pair(scale=0.01)
    aligned, base = ({n: t.bfloat16() for n, t in m.state_dict().items()} for m in (pair.aligned, pair.base))
    found = build(with_lora(pair.aligned), aligned, base, [Gram()]).terms[0].modules["model.layers.0.self_attn.q_proj"]
    name = "model.layers.0.self_attn.q_proj.weight"
    exact = torch.linalg.matrix_norm(aligned[name].double() - base[name].double())
    assert found.spectrum.norm == pytest.approx(float(exact), rel=1e-12)


def test_anchors_without_a_checkpoint_open_none(tmp_path):
    model = with_lora(tiny_model())
    found = build(model, tmp_path / "nowhere", "org/nothing", [Shrinkage(weight=2.0)])
    assert len(found.shapes) == 4 and found.terms[0].weight == 2.0


def edited(pair: Pair, folder, name: str, edit):
    """The base checkpoint with one tensor replaced (or, by None, left out)."""
    pair.base.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = edit(tensors[name])
    save_file({n: t for n, t in tensors.items() if t is not None}, folder / "model.safetensors")
    return folder


WEIGHT = "model.layers.1.self_attn.v_proj.weight"
DAMAGES = {
    "NaN": (lambda t: t.fill_(float("nan")), r"layers\.1\.self_attn\.v_proj: weights must be finite.*Get the file again"),
    "shape": (lambda t: t[:4].clone(), r"layers\.1\.self_attn\.v_proj: the weight in .* shape \(8, 16\), got \(4, 16\)"),
    "absent": (lambda t: None, r"layers\.1\.self_attn\.v_proj: no weight of this name.*model's own architecture"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_matrix_is_named(tmp_path, damage):
    pair = tiny_pair()
    edit, message = DAMAGES[damage]
    with pytest.raises(AnchorError, match=message):
        build(with_lora(pair.aligned), pair.aligned, edited(pair, tmp_path, WEIGHT, edit))


def test_a_direction_of_zero_is_refused():
    pair = tiny_pair()
    with pytest.raises(
        AnchorError, match=r"layers\.0\.self_attn\.q_proj: V = .* must not be 0.*name one checkpoint twice\?"
    ):
        build(with_lora(pair.aligned), pair.aligned, pair.aligned)


@pytest.mark.parametrize("missing", ["aligned", "base"])
def test_a_missing_checkpoint_is_named(missing):
    pair = tiny_pair()
    sources = {"aligned": pair.aligned, "base": pair.base, missing: None}
    with pytest.raises(
        AnchorError, match=rf"q_proj: .* needs both checkpoints, and `{missing}` is not given\. Name it under"
    ):
        build(with_lora(pair.aligned), **sources)


@pytest.mark.parametrize("anchor", [Subspace(num_directions=16), Subspace(explained_variance=1.0)])
def test_a_full_rank_subspace_is_refused_by_module(anchor):
    pair = tiny_pair()
    with pytest.raises(AnchorError, match=r"layers\.0\.self_attn\.q_proj: Subspace would keep all 16 .* C = I.*Keep fewer"):
        build(with_lora(pair.aligned), pair.aligned, pair.base, [anchor])


def test_another_architecture_is_refused():
    pair = tiny_pair()
    with pytest.raises(AnchorError, match=r"q_proj: no weight of this name in GPT2LMHeadModel"):
        build(with_lora(pair.aligned), pair.aligned, tiny_model("gpt2"))


def test_no_anchor_at_all_is_refused():
    with pytest.raises(AnchorError, match=r"needs at least one anchor, got none\. Pass anchors=\[Gram\(\)\]"):
        build(with_lora(tiny_model()), None, None, [])


def test_a_model_of_which_nothing_is_trained_is_refused():
    with pytest.raises(UnpenalisedError, match=r"LlamaForCausalLM has none\. Wrap it with peft\.get_peft_model"):
        build(tiny_model().requires_grad_(False), None, None, [Shrinkage()])


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"has none\. Write it with save_pretrained"):
        build(with_lora(tiny_model()), tmp_path, tmp_path)


def test_errors_are_one_family():
    assert issubclass(AnchorError, AsFTError) and issubclass(UnpenalisedError, AsFTError)


def test_no_more_than_one_checkpoint_tensor_is_alive_when_the_next_is_read(tmp_path, monkeypatch):
    pair = tiny_pair(layers=4)
    for side in ("aligned", "base"):
        (tmp_path / side).mkdir()
        sharded(getattr(pair, side), tmp_path / side)
    alive, most = [], []
    original = matrices._tensor_in

    def watched(path, own_name):
        most.append(sum(reference() is not None for reference in alive))
        tensor = original(path, own_name)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(matrices, "_tensor_in", watched)
    build(with_lora(pair.aligned, target_modules=TARGETS["llama"]), tmp_path / "aligned", tmp_path / "base", [Gram()])
    assert len(most) == 2 * 2 * 12 and max(most) <= 1  # two sides, once for the fingerprint and once for V


def test_sides_may_differ_in_dtype():
    pair = tiny_pair()
    aligned = {name: tensor.bfloat16() for name, tensor in pair.aligned.state_dict().items()}
    found = build(with_lora(pair.aligned), aligned, pair.base, [Gram()]).terms[0].modules["model.layers.1.self_attn.v_proj"]
    name = "model.layers.1.self_attn.v_proj.weight"
    exact = torch.linalg.matrix_norm(aligned[name].double() - pair.base.state_dict()[name].double())
    assert found.spectrum.norm == pytest.approx(float(exact), rel=1e-12)


def test_a_vocabulary_that_grew_matters_to_its_own_matrices_alone():
    pair = tiny_pair()
    grown = {n: torch.cat([t, t[:8]]) if t.shape[0] == 32 else t for n, t in pair.base.state_dict().items()}
    assert build(with_lora(pair.aligned), pair.aligned, grown).shapes
    with pytest.raises(AnchorError, match=r"lm_head: .* shape \(32, 16\), got \(40, 16\).*vocabulary"):
        build(with_lora(pair.aligned, target_modules=["lm_head"]), pair.aligned, grown)


def test_a_tied_head_that_no_file_holds_is_refused_by_name(tmp_path):
    torch.manual_seed(0)
    plain = tiny_model()
    config = type(plain.config)(**{**plain.config.to_dict(), "tie_word_embeddings": True})
    tied = type(plain)(config)
    tied.save_pretrained(tmp_path)
    with pytest.raises(AnchorError, match=r"lm_head: no weight of this name.*tied to another.*cannot be a LoRA target"):
        build(with_lora(plain, target_modules=["lm_head"]), tmp_path, plain.state_dict())


def test_fused_projections_are_one_matrix():
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 1}
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(AutoModelForCausalLM.from_config(Phi3Config(pad_token_id=0, **sizes)))
    found = build(with_lora(models[0], target_modules=["qkv_proj", "gate_up_proj"]), *models, [Gram()])
    name = "model.layers.0.self_attn.qkv_proj"
    v = (models[0].get_submodule(name).weight - models[1].get_submodule(name).weight).detach().double()
    assert found.shapes[name] == (48, 16)
    assert found.terms[0].modules[name].spectrum.norm == pytest.approx(float(torch.linalg.matrix_norm(v)), rel=1e-6)


def test_where_it_is_computed_does_not_matter():
    pair = tiny_pair()
    model = with_lora(pair.aligned)
    here = build_anchors(model, pair.aligned, pair.base, [Gram()], device="cpu", progress=False)
    assert here.sha256() == build(model, pair.aligned, pair.base, [Gram()]).sha256()
