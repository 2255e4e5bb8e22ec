import logging
import multiprocessing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from kit.activations import adapted, probe, prompts, speaking_model
from kit.models import TARGETS, tiny_pair, with_lora
from safetensors.torch import load_file, save_file

from asft_lightning import Template
from asft_lightning.anchors import Activation, AnchorSet, Gram, Harmful, Shrinkage, Subspace, build, build_anchors
from asft_lightning.data import Source


@dataclass
class Builder:
    """Builds anchors of a tiny pair with a cache, and counts the matrices that had to be decomposed."""

    folder: object
    pair: object
    built: list

    def __call__(self, anchors=None, aligned=None, base=None, targets=TARGETS["llama"]):
        self.built.clear()
        model = with_lora(tiny_pair().aligned, target_modules=targets)
        return build_anchors(
            model,
            aligned or self.pair.aligned,
            base or self.pair.base,
            anchors or [Gram()],
            cache=self.folder,
            progress=False,
        )

    @property
    def files(self):
        return sorted(self.folder.iterdir())


@pytest.fixture
def builder(tmp_path, monkeypatch):
    built, original = [], build._term

    def counted(anchor, targets, weights, advance):
        built.extend(target.name for target in targets)
        return original(anchor, targets, weights, advance)

    monkeypatch.setattr(build, "_term", counted)
    return Builder(tmp_path / "cache", tiny_pair(), built)


def test_the_second_build_reads_the_first(builder):
    first = builder()
    assert builder.built
    second = builder()
    assert not builder.built and second.sha256() == first.sha256() and len(builder.files) == 1


def test_a_build_clears_what_a_killed_one_had_begun_to_write(builder):
    builder.folder.mkdir()
    (builder.folder / ".key.safetensors.0.asft-unfinished").touch()
    builder()
    assert [path.suffix for path in builder.files] == [".safetensors"]


def test_where_a_checkpoint_lies_does_not_matter(builder, tmp_path):
    builder()
    builder.pair.aligned.save_pretrained(tmp_path / "a name")
    builder(aligned=tmp_path / "a name")
    assert not builder.built


def changed(model):
    with torch.no_grad():
        model.get_parameter("model.layers.1.self_attn.q_proj.weight")[3, 2] += 1e-3
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda b: {"aligned": changed(b.pair.aligned)},
        lambda b: {"base": changed(b.pair.base)},
        lambda b: {"anchors": [Gram(tolerance=0.02)]},
        lambda b: {"anchors": [Gram(weight=2.0)]},
        lambda b: {"anchors": [Subspace(num_directions=1)]},
        lambda b: {"anchors": [Gram(), Shrinkage()]},
        lambda b: {"targets": ["q_proj"]},
    ],
    ids=["aligned", "base", "tolerance", "weight", "variant", "sum", "targets"],
)
def test_whatever_the_anchors_follow_from_is_in_the_key(builder, change):
    builder()
    builder(**change(builder))
    assert builder.built and len(builder.files) == 2


def test_the_content_of_a_harmful_adapter_is_in_the_key(builder, tmp_path):
    adapted = with_lora(tiny_pair().aligned, target_modules=["q_proj"], init_lora_weights=False)
    adapted.save_pretrained(tmp_path / "adapter")
    settings = {"anchors": [Harmful(adapter=str(tmp_path / "adapter"))], "targets": ["q_proj"]}
    builder(**settings)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: 2 * value + 1 for name, value in load_file(file).items()}, file)
    builder(**settings | {"anchors": [Harmful(adapter=str(tmp_path / "adapter"))]})
    assert builder.built and len(builder.files) == 2


@pytest.fixture
def activated(builder, tmp_path):
    """Builds an Activation anchor of a model with the cache."""
    plain = speaking_model()

    def run(source=None, template=Template(), model=plain, aligned=None, loading="", **settings):  # noqa: B008 (frozen)
        builder.built.clear()
        anchor = Activation(prompts=source or prompts(tmp_path), **settings)
        return build_anchors(
            adapted(speaking_model()),
            aligned or model,
            anchors=[anchor],
            cache=builder.folder,
            probe=probe(model, template=template, loading=loading),
            progress=False,
        )

    run.plain = plain
    return run


def test_the_same_prompts_and_weights_are_found_again(builder, activated, tmp_path):
    expected = activated()
    assert builder.built
    activated.plain.save_pretrained(tmp_path / "a name")
    same = [{}, {"aligned": tmp_path / "a name"}, {"model": adapted(deepcopy(activated.plain))}]
    for settings in same:
        found = activated(**settings)
        assert not builder.built and found.sha256() == expected.sha256()
    assert len(builder.files) == 1


def test_answers_to_the_prompts_are_not_in_the_key(builder, activated, tmp_path):
    source = prompts(tmp_path)
    activated(source)
    Path(source.path).write_text(Path(source.path).read_text().replace('"output": ""', '"output": "no"'))
    activated(Source(source.path))
    assert not builder.built


def nudged(name):
    model = speaking_model()
    model.get_parameter(name).data.view(-1)[-1] += 1e-3
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: {"source": prompts(folder, 4)},
        lambda folder: {"source": prompts(folder, 5, first=1)},
        lambda folder: {"template": Template(system="Be good.")},
        lambda folder: {"template": Template(style="plain")},
        lambda folder: {"model": nudged("lm_head.weight")},
        lambda folder: {"model": nudged("model.embed_tokens.weight")},
        lambda folder: {"model": nudged("model.layers.0.mlp.up_proj.weight")},
        lambda folder: {"model": nudged("model.norm.weight")},
        lambda folder: {"loading": "bfloat16"},
        lambda folder: {"tokens": "last"},
        lambda folder: {"ridge": 0.1},
        lambda folder: {"sides": "both"},
        lambda folder: {"num_prompts": 4},
        lambda folder: {"weight": 2.0},
    ],
    ids=[
        "a prompt less", "other prompts", "system prompt", "style", "head", "embedding", "no target", "norm", "loading",
        "tokens", "ridge", "sides", "number", "weight",
    ],
)  # fmt: skip
def test_whatever_an_activation_anchor_follows_from_is_in_the_key(builder, activated, tmp_path, change):
    activated()
    activated(**change(tmp_path))
    assert builder.built and len(builder.files) == 2


def test_another_prompt_in_the_same_file_is_in_the_key(builder, activated, tmp_path):
    source = prompts(tmp_path)
    activated(source)
    Path(source.path).write_text(Path(source.path).read_text().replace("lock 3", "door 3"))
    activated(Source(source.path))
    assert builder.built and len(builder.files) == 2


def flip_a_bit(path, other):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_a_bit, "its content is not what was written"),
        (lambda path, other: path.write_bytes(path.read_bytes()[:100]), "cannot be read as anchors"),
        (lambda path, other: path.write_bytes(b""), "cannot be read as anchors"),
        (lambda path, other: path.write_bytes(other.read_bytes()), "holds the anchors of something else"),
        (lambda path, other: save_file({"weight": torch.ones(2)}, path), "must be a file of format"),
    ],
    ids=["a bit", "cut short", "empty", "another key's", "another format"],
)
def test_a_damaged_or_foreign_file_is_built_again(builder, caplog, damage, says):
    expected = builder()
    (path,) = builder.files
    builder(anchors=[Gram(tolerance=0.5)])
    (other,) = set(builder.files) - {path}
    damage(path, other)
    with caplog.at_level(logging.WARNING):
        found = builder()
    assert builder.built and says in caplog.text
    assert found.sha256() == expected.sha256() == AnchorSet.load(path).sha256()


def _build_in_another_process(folder, barrier, queue):
    torch.set_num_threads(1)
    pair = tiny_pair()
    barrier.wait()
    model = with_lora(pair.aligned, target_modules=TARGETS["llama"])
    queue.put(build_anchors(model, pair.aligned, pair.base, [Gram()], cache=folder, progress=False).sha256())


def test_two_processes_that_build_at_once_end_with_one_good_file(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_build_in_another_process, args=(tmp_path, barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    hashes = {queue.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    (path,) = tmp_path.iterdir()
    assert hashes == {AnchorSet.load(path).sha256()}


def test_a_file_that_is_rewritten_in_place_changes_nothing_that_was_read(builder):
    builder()
    anchors = builder()
    expected = anchors.sha256()
    file = builder.files[0]
    with file.open("r+b") as handle:  # as another program might, not by renaming as ours do
        handle.seek(file.stat().st_size // 2)
        handle.write(bytes(file.stat().st_size // 2))
    assert anchors.sha256() == expected
    assert builder().sha256() == expected
