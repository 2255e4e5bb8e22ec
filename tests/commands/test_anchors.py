"""``asft-lightning anchors``, through the command line's own entry."""

import json

import pytest
from kit import tiny
from kit.activations import probe
from kit.tiny import LORA, tiny_model
from peft import LoraConfig, get_peft_model

from asft_lightning import Activation, AnchorSet, Pretrained, Template, UpdatePenalty, build_anchors
from asft_lightning.cli import main
from asft_lightning.commands.ways_on import after_anchors

BUILD = ["build", "--pretrained.aligned", "never/read"]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ASFT_LIGHTNING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def built(pretrained, tmp_path, capsys):
    """A file of anchors, built by the command from a model's config."""
    config = tmp_path / "model.yaml"
    config.write_text(f"pretrained: {{aligned: {pretrained.aligned}, base: {pretrained.base}}}\n")
    file = tmp_path / "published" / "anchors.safetensors"
    main(["anchors", "build", "--config", str(config), "--output", str(file), "--png", str(tmp_path / "spectra.png")])
    return file, capsys.readouterr().out


def test_build_writes_anchors_of_the_papers_targets_and_shows_them(built, tmp_path):
    file, out = built
    found = AnchorSet.load(file)
    assert {name.rpartition(".")[2] for name in found.shapes} == {"q_proj", "v_proj"}
    said = [str(found), f"drawn in {tmp_path / 'spectra.png'}", f"written to {file}", *after_anchors(file)]
    assert out.splitlines() == "\n".join(said).splitlines()
    assert (tmp_path / "spectra.png").stat().st_size > 1000


def test_build_takes_other_targets_and_anchors(pretrained, tmp_path, capsys):
    file = tmp_path / "anchors.safetensors"
    which = ["--pretrained.aligned", str(pretrained.aligned), "--pretrained.base", str(pretrained.base)]
    sums = '[{"class_path": "asft_lightning.Subspace", "init_args": {"num_directions": 2}}, {"class_path": "Shrinkage"}]'
    main(["anchors", "build", *which, "--lora", '{"target_modules": ["o_proj"]}', "--anchors", sums, "--output", str(file)])
    found = AnchorSet.load(file)
    assert [term.label for term in found.terms] == ["Subspace", "Shrinkage"]
    assert all(name.endswith("o_proj") for name in found.shapes)


@pytest.mark.parametrize("as_folder", [False, True])
def test_show_reads_a_file_or_a_folder(built, capsys, as_folder):
    file, _ = built
    given = file.parent if as_folder else file
    main(["anchors", "show", str(given)])
    assert capsys.readouterr().out == "\n".join([str(AnchorSet.load(file)), *after_anchors(given), ""])


def test_diff_measures_an_adapter(built, tmp_path, capsys):
    get_peft_model(tiny_model("chat", 1), LoraConfig(**LORA, init_lora_weights=False)).save_pretrained(tmp_path / "adapter")
    main(["anchors", "diff", str(built[0]), str(tmp_path / "adapter")])
    out = capsys.readouterr().out
    assert out.count("Gram") == 5 and "orthogonal" in out


def activation(folder, **settings):
    """The argument that asks for an Activation anchor."""
    prompts = {"path": tiny.unsafe_prompts(folder).path}
    return json.dumps([{"class_path": "Activation", "init_args": {"prompts": prompts, **settings}}])


@pytest.mark.parametrize("more", [[], ["--template.style", "alpaca"], ["--pretrained.start", "base"]], ids=" ".join)
def test_activation_is_built_of_the_aligned_model_with_the_template(pretrained, tmp_path, capsys, more):
    file = tmp_path / "anchors.safetensors"
    which = ["--pretrained.aligned", str(pretrained.aligned), "--pretrained.base", str(pretrained.base)]
    main(["anchors", "build", *which, *more, "--anchors", activation(tmp_path), "--output", str(file)])
    found = AnchorSet.load(file)
    assert capsys.readouterr().out == "\n".join([str(found), f"written to {file}", *after_anchors(file), ""])

    model = get_peft_model(tiny_model("chat", 1), LoraConfig(**LORA))
    anchor = Activation(prompts=tiny.unsafe_prompts(tmp_path))
    template = Template(style="alpaca") if "alpaca" in more else Template()
    asked = probe(tiny_model("chat", 1), template=template, loading=Pretrained("").loading)
    expected = build_anchors(model, pretrained.aligned, anchors=[anchor], probe=asked, progress=False)
    assert found.sha256() == expected.sha256()


def test_activation_is_shown_and_measured_against(pretrained, tmp_path, capsys):
    file, adapter = tmp_path / "anchors.safetensors", str(tmp_path / "adapter")
    model = get_peft_model(tiny_model("chat", 1), LoraConfig(**LORA, init_lora_weights=False))
    model.save_pretrained(adapter)
    build = ["build", "--pretrained.aligned", str(pretrained.aligned), "--output", str(file)]
    main(["anchors", *build, "--anchors", activation(tmp_path, weight=3.0)])
    capsys.readouterr()
    main(["anchors", "show", str(file)])
    assert capsys.readouterr().out == "\n".join([str(AnchorSet.load(file)), *after_anchors(file), ""])
    main(["anchors", "diff", str(file), adapter])
    last = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("all "))
    penalty = float(UpdatePenalty(model, AnchorSet.load(file), resumed=True)().detach())
    assert float(last.split()[-1]) == pytest.approx(penalty, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "absent.safetensors"], "absent.safetensors cannot be read as anchors"),
        (["show", "no/repository"], "'no/repository' must be a local path or a hub id within reach"),
        (["show", "{file}", "--png", "/proc/no/spectra.png"], "/proc/no/spectra.png cannot be written"),
        ([*BUILD, "--output", "{file.parent}"], "must be the name of a file with its ending"),
        ([*BUILD, "--anchors", '[{{"class_path": "Activation", "init_args": {{"tokens": "first"}}}}]'], "first"),
        ([*BUILD, "--anchors", '[{{"class_path": "Activation", "init_args": {{"ridge": -1}}}}]'], "ridge ≥ 0"),
        ([*BUILD, "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        ([*BUILD, "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["diff", "{file}", "no/adapter"], "'no/adapter' must be a local path or a hub id within reach"),
    ],
)
def test_mistakes_end_in_one_line(built, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["anchors", *(part.format(file=built[0]) for part in arguments)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and "Traceback" not in error
