"""ClassifierJudge and BeaverDamJudge: what they refuse, and what they say then."""

import math

import pytest
from kit import tiny
from kit.worlds import save_classifier, unchanged_rng

from asft_lightning import ConfigurationError
from asft_lightning.evaluation import BeaverDamJudge, ClassifierJudge


def test_nothing_to_judge_loads_nothing():
    assert BeaverDamJudge("nobody/no-such-model")([], []) == []


def test_every_prompt_needs_its_answer(classifier):
    with pytest.raises(ValueError, match="shorter"):
        ClassifierJudge(classifier)(["a", "b"], ["Sure."])


@pytest.mark.parametrize("place", ["nobody/no-such-model", "/no/such/folder"])
def test_model_out_of_reach(place):
    with pytest.raises(ConfigurationError, match=rf"'{place}' must be a local path or a hub id within reach"):
        BeaverDamJudge(place)(["a"], ["b"])


def test_checkpoint_without_a_classifier(tmp_path):
    """Transformers would make up a random one and only warn."""
    folder = tiny.save_tiny(tmp_path, seed=1)
    with (
        unchanged_rng(),
        pytest.raises(
            ConfigurationError, match=r"must hold all of its weights, and '.*' lacks score.weight, which would be"
        ),
    ):
        ClassifierJudge(str(folder), multi_label=True, device="cpu")(["a"], ["b"])


def test_labels_that_are_not_the_models(tmp_path):
    folder = save_classifier(tmp_path, labels=3)
    expected = r"must name each output of its model, and '.*' has 3, got 14 \(animal_abuse, child_abuse, .* and 11 more\)"
    with pytest.raises(ConfigurationError, match=expected):
        BeaverDamJudge(folder, device="cpu")(["a"], ["b"])


def test_which_label_is_unsafe_must_be_said_where_there_is_exactly_one(classifier):
    with pytest.raises(ConfigurationError, match=r"must know which of two or more labels are unsafe, got unsafe None of \["):
        ClassifierJudge(classifier, device="cpu")(["a"], ["b"])


def test_one_output_cannot_be_one_of_several(tmp_path):
    folder = save_classifier(tmp_path, labels=1)
    with pytest.raises(ConfigurationError, match=r"which of two or more labels are unsafe.*set multi_label to true"):
        ClassifierJudge(folder, unsafe=["LABEL_0"], multi_label=False, device="cpu")(["a"], ["b"])


@pytest.mark.parametrize(
    ("labels", "unsafe"), [(["a", "b"], ["c"]), (["a", "b"], []), (["a", "a"], ["a"]), (["a", "a"], None), ([], None)]
)
def test_unsafe_labels_stand_among_labels_that_differ(labels, unsafe):
    with pytest.raises(ConfigurationError, match=r"unsafe labels must stand among its labels, which all differ, got unsafe"):
        ClassifierJudge("nobody/no-such-model", labels=labels, unsafe=unsafe)


def test_unsafe_labels_stand_among_the_checkpoints(classifier):
    with pytest.raises(
        ConfigurationError, match=r"got unsafe \['harm'\] of \['LABEL_0', .*as the checkpoint's id2label does"
    ):
        ClassifierJudge(classifier, unsafe=["harm"], device="cpu")(["a"], ["b"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"text": "{prompt}"}, r"text must say where the answer stands, got '\{prompt\}'. Write \{answer\} there"),
        ({"threshold": 1.5}, r"threshold must be a probability, 0 to 1, got 1.5. 0.5 is usual"),
        ({"threshold": -0.1}, r"threshold must be a probability, 0 to 1, got -0.1"),
        ({"threshold": math.nan}, r"threshold must be a probability, 0 to 1, got nan"),
        ({"batch_size": 0}, r"batch_size must be 1 or more, got 0. Leave it out"),
        ({"max_length": 7}, r"max_length must be 8 or more, got 7. Leave it out"),
        ({"dtype": "int8"}, r"dtype must be one of auto, float32, bfloat16, float16, got 'int8'. Use auto"),
        ({"device": "gpu"}, r"device must be null, cpu, cuda, cuda:1 or the like, got 'gpu'. Use null"),
    ],
)
def test_settings_that_cannot_be_used(settings, expected):
    with pytest.raises(ConfigurationError, match=expected):
        ClassifierJudge("nobody/no-such-model", **settings)


def test_device_that_is_not_there(classifier):
    with pytest.raises(
        ConfigurationError, match=r"device must exist and have room for the model, and 'cuda:63' could not take"
    ):
        ClassifierJudge(classifier, multi_label=True, device="cuda:63")(["a"], ["b"])
