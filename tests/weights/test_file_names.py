"""Families whose files have other names than their modules, as Transformers writes them and as they once were written."""

from copy import deepcopy

import pytest
import torch
from kit import tiny
from kit.models import Pair, bound, reference_penalty, train_factors, with_lora
from kit.references import dense_gram, dense_projector, relative_error
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    GPTNeoXConfig,
    HrmTextConfig,
    MixtralConfig,
    Qwen2VLConfig,
)

from asft_lightning import Activation, Harmful, Pretrained, Template
from asft_lightning.anchors import Gram, Probe, Subspace, build_anchors
from asft_lightning.cli import main
from asft_lightning.errors import AnchorError

SIZE = {
    "vocab_size": 262, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 512,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
_BY_HEAD = SIZE | {"head_dim": 4, "num_key_value_heads": 4}


def gemma3():
    vision = VISION | {"image_size": 8, "patch_size": 4}
    return AutoModelForCausalLM.from_config(
        Gemma3Config(text_config=SIZE | {"head_dim": 4}, vision_config=vision, mm_tokens_per_image=4)
    )


def qwen2_vl():
    vision = {"embed_dim": 16, "hidden_size": 16, "depth": 1, "num_heads": 2}
    return AutoModelForImageTextToText.from_config(Qwen2VLConfig(text_config=SIZE, vision_config=vision))


def causal(config):
    return lambda: AutoModelForCausalLM.from_config(config)


FAMILIES = {
    # with a tensor of its files, and the targets of a LoRA on it
    "gemma3": (gemma3, "language_model.model.layers.0.self_attn.q_proj.weight", ["q_proj", "v_proj"]),
    "qwen2_vl": (qwen2_vl, "visual.blocks.0.attn.qkv.weight", ["q_proj", "up_proj", "qkv"]),
    "gpt_neox": (causal(GPTNeoXConfig(**SIZE)), "embed_out.weight", ["lm_head", "query_key_value"]),
    "mixtral": (
        causal(MixtralConfig(**SIZE, num_local_experts=2)),
        "model.layers.0.block_sparse_moe.experts.0.w1.weight",
        ["q_proj", "o_proj"],
    ),
    "hrm_text": (causal(HrmTextConfig(**_BY_HEAD)), "model.H_module.layers.0.attn.gqkv_proj.weight", ["o_proj"]),
}
# What else Transformers reads of Gemma 3: names that some of its releases wrote.
LAYOUTS = {
    "as written": lambda name: name,
    "doubled": lambda name: name.replace("language_model.model.", "language_model.model.model."),
    "of the modules": lambda name: f"model.{name}".replace("language_model.model.", "language_model."),
}


def pair_of(make):
    """An aligned and a base model; 'llama' is what says that nothing is transposed."""
    torch.manual_seed(0)
    aligned = make()
    base = deepcopy(aligned)
    for parameter in base.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Pair("llama", aligned, base)


def saved(pair, folder, rename=LAYOUTS["as written"]):
    """The pair as two checkpoints, with what stands for them in a build."""
    for side in ("aligned", "base"):
        getattr(pair, side).save_pretrained(folder / side)
        file = folder / side / "model.safetensors"
        save_file({rename(name): value for name, value in load_file(file).items()}, file, {"format": "pt"})
    return folder / "aligned", folder / "base"


def penalty_from_files(pair, folders, anchors, targets):
    """The penalty of a trained adapter whose anchors were built from files, and its model."""
    model = with_lora(pair.aligned, target_modules=targets)
    penalty = bound(model, Pair(pair.kind, *map(str, folders)), anchors)
    return float(penalty().detach()), model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_penalty_from_files_is_that_of_the_live_weights(family, tmp_path):
    make, in_file, targets = FAMILIES[family]
    pair = pair_of(make)
    folders = saved(pair, tmp_path)
    assert in_file in load_file(folders[0] / "model.safetensors") and in_file not in pair.aligned.state_dict()
    found, model = penalty_from_files(pair, folders, [Gram(tolerance=0)], targets)
    assert found == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)
    found, model = penalty_from_files(pair, folders, [Subspace(num_directions=2)], targets)
    assert found == pytest.approx(reference_penalty(model, pair, lambda v: dense_projector(v, 2)), rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_that_transformers_reads(layout, tmp_path):
    pair = pair_of(gemma3)
    folders = saved(pair, tmp_path, LAYOUTS[layout])
    loaded = AutoModelForCausalLM.from_pretrained(folders[0]).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in pair.aligned.state_dict().items())
    found, model = penalty_from_files(pair, folders, [Gram(tolerance=0)], ["q_proj", "v_proj"])
    assert found == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)


def test_a_matrix_that_is_parted_on_loading_names_the_remedy_which_helps(tmp_path):
    make, *_ = FAMILIES["hrm_text"]
    pair = pair_of(make)
    folders = saved(pair, tmp_path)
    message = r"q_proj: no weight of .*aligned is this matrix as it stands.*gqkv_proj\.weight.*save_original_format=False"
    with pytest.raises(AnchorError, match=message):
        penalty_from_files(pair, folders, [Gram()], ["q_proj"])
    pair.aligned.save_pretrained(folders[0], save_original_format=False)
    pair.base.save_pretrained(folders[1], save_original_format=False)
    found, model = penalty_from_files(pair, folders, [Gram(tolerance=0)], ["q_proj"])
    assert found == pytest.approx(reference_penalty(model, pair, dense_gram), rel=1e-5)


def write_legacy_names(file):
    """An adapter's factors as they were called before Transformers 5, when its modules were called as the files are."""
    tensors = load_file(file)
    for new, old in {"model.language_model.": "language_model.model.", "model.vision_tower.": "vision_tower."}.items():
        tensors = {name.replace(f"base_model.model.{new}", f"base_model.model.{old}"): t for name, t in tensors.items()}
    save_file(tensors, file)


@pytest.mark.parametrize("legacy", [False, True])
def test_an_adapters_names_go_with_the_files_or_with_the_modules(legacy, tmp_path):
    pair = pair_of(gemma3)
    harmful = with_lora(pair.aligned)
    train_factors(harmful, seed=3)
    harmful.save_pretrained(tmp_path)
    live = build_anchors(harmful, anchors=[Harmful(adapter=str(tmp_path))], aligned=pair.aligned, progress=False)
    if legacy:
        write_legacy_names(tmp_path / "adapter_model.safetensors")
    folders = saved(pair, tmp_path)
    model = with_lora(pair.aligned)
    found = build_anchors(model, str(folders[0]), anchors=[Harmful(adapter=str(tmp_path))], progress=False)
    assert found.sources == live.sources
    for name, anchor in found.terms[0].modules.items():
        assert relative_error(anchor.out.dense(), live.terms[0].modules[name].out.dense()) < 1e-6


def test_activation_measures_against_the_files(tmp_path, tokenizer):
    pair = pair_of(gemma3)
    folders = saved(pair, tmp_path)
    anchors = [Activation(prompts=tiny.unsafe_prompts(tmp_path))]
    model = with_lora(pair.aligned, target_modules=r".*language_model.*q_proj")
    live, found = (
        build_anchors(model, source, anchors=anchors, probe=Probe(pair.aligned, tokenizer, Template()), progress=False)
        for source in (pair.aligned, folders[0])
    )
    assert {name: anchor.scale for name, anchor in found.terms[0].modules.items()} == {
        name: anchor.scale for name, anchor in live.terms[0].modules.items()
    }


def test_commands_read_such_a_pair(tmp_path, seed_stays):
    aligned, base = saved(pair_of(gemma3), tmp_path)
    sides = ["--pretrained.aligned", str(aligned), "--pretrained.base", str(base)]
    main(["anchors", "build", *sides, "--output", str(tmp_path / "anchors.safetensors")])
    adapter = tiny.write_adapter(tmp_path / "adapter", Pretrained(str(aligned)))
    write_legacy_names(tmp_path / "adapter" / "adapter_model.safetensors")
    method = ["--method=OffAnchorShrinkage", "--method.strength=3", "--method.anchor=Shrinkage"]
    main(["project-adapter", adapter, str(tmp_path / "safer"), *sides, *method])
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "safer"))
    assert len(after) == 12 and before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value / 4 if "lora_B" in name else value)
