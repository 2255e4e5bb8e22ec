"""Where a run's checkpoints stand in a plane of two directions."""

import pytest
from kit import tiny
from lightning.pytorch.callbacks import ModelCheckpoint

from asft_lightning import AdapterCheckpoint, AsFT, ConfigurationError
from asft_lightning.anchors import Gram
from asft_lightning.landscape import Random, Tuned
from asft_lightning.landscape.rays import Ray
from asft_lightning.landscape.space import Space
from asft_lightning.landscape.trail import projected, trail


@pytest.fixture(scope="module")
def run(pretrained, tmp_path_factory):
    """The folder of a run of four steps with a checkpoint at each."""
    folder = tmp_path_factory.mktemp("run")
    saving = [AdapterCheckpoint(), ModelCheckpoint(save_top_k=-1, every_n_train_steps=1)]
    trainer = tiny.tiny_trainer(folder, callbacks=saving, enable_checkpointing=True)
    trainer.fit(tiny.fine_tuner(AsFT, pretrained, anchors=[Gram()]), tiny.tiny_data(pretrained, folder, batch_size=4))
    return folder


def test_the_path_goes_through_every_checkpoint_to_the_finished_run(run, pretrained):
    space = Space.of(pretrained, "targets", tiny.LORA)
    weights = {name: weight.detach() for name, weight in pretrained.load_model().named_parameters() if name in space.shapes}
    updates = [Ray.of("update", parts, weights, "raw") for parts in trail(str(run), "run", space)]
    end = Ray.of("end", Tuned(str(run), "end").open(space), weights, "global")
    across = Ray.of("across", Random().open(space), weights)
    places = [projected(update, end, across, list(weights)) for update in updates]
    assert len(places) == 5 and places[3] == places[4]
    assert sorted(update.norm for update in updates) == [update.norm for update in updates]
    assert places[4] == pytest.approx((updates[4].norm, 0, 0), abs=1e-3)
    assert 0 < places[0][0] < places[4][0]


def test_a_damaged_checkpoint_is_said(run, pretrained, tmp_path):
    path = next((run / "checkpoints").glob("*.ckpt"))
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    try:
        with pytest.raises(ConfigurationError, match="cannot be read as a checkpoint"):
            list(trail(str(run), "run", Space.of(pretrained, "targets", tiny.LORA)))
    finally:
        path.write_bytes(content)
