"""Real loggers are told what a run is set to, and keep what it leaves; MLflow and W&B where they are installed."""

import json

import pytest
import yaml
from kit import tiny
from kit.commands import write_config
from kit.tiny import fine_tuner, tiny_data, tiny_trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asft_lightning import AdapterCheckpoint, AlignmentMonitor, AsFT, Gram, SafetyEvaluation, Shrinkage, Source
from asft_lightning.cli import main
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.summary import Summary
from asft_lightning.runs.tracking import log_products, without_configuration

SETTINGS = {
    "method": "AsFT", "lambda_reg": 2.0, "anchors.0.class": "Gram", "anchors.1.weight": 0.5, "conflict": "add",
    "lora.r": 4, "lora.target_modules": "q_proj, v_proj", "learning_rate": 0.01, "batch_size": 8,
    "rows": 16, "poison_ratio": 0.25,
}  # fmt: skip
"""What every logger must have been told, among others."""


def trained(pretrained, folder, logger):
    """The trainer of a run that scores, draws and writes its adapter."""
    prompts = Source(tiny.write_rows(folder / "unsafe.jsonl", [{"instruction": "how to open safe 1", "output": ""}]))
    scorer = SafetyEvaluation(prompts, max_new_tokens=2)
    callbacks = [scorer, AlignmentMonitor(), AdapterCheckpoint()]
    trainer = tiny_trainer(folder, callbacks=callbacks, logger=logger, log_every_n_steps=1, max_epochs=1)
    anchors = [Gram(), Shrinkage(weight=0.5)]
    trainer.fit(fine_tuner(AsFT, pretrained, lambda_reg=2.0, anchors=anchors), tiny_data(pretrained, folder, batch_size=8))
    log_products(trainer)
    return trainer


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def hparams(found):
    """What the hparams tab of TensorBoard shows."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in told.items()}


def followed(found):
    """The figures that it shows beside them."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = found.SummaryMetadata("_hparams_/experiment").plugin_data.content
    return {info.name.tag for info in HParamsPluginData.FromString(content).experiment.metric_infos}


@pytest.mark.usefixtures("seed_stays")
def test_tensorboard_on_the_command_line(tmp_path):
    config = write_config(tmp_path)
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(tmp_path / "tb"), "name": "", "version": ""}}
    main(
        [
            "fit",
            "--config",
            config,
            f"--trainer.logger={json.dumps(logger)}",
            "--trainer.callbacks+=asft_lightning.AlignmentMonitor",
        ]
    )
    found = events(tmp_path / "tb")
    told = hparams(found)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["run"]
    assert told["method"] == "AsFT" and told["anchors.0.class"] == "Gram" and told["lora.r"] == summary["lora"]["r"]
    assert told["data_sha256"] == summary["data_sha256"] and told["seed"] == 1 and told["learning_rate"] == 0.01
    assert "alignment" in found.Tags()["images"] and "hp_metric" not in found.Tags()["scalars"]
    scores = {name: score for name, score in read_scores(tmp_path / "run") if name.startswith("safety/")}
    assert followed(found) == scores.keys() and "safety/harmful_score" in scores
    assert all(found.Scalars(name)[-1].value == pytest.approx(score.after) for name, score in scores.items())


def test_lightnings_csv_logger(pretrained, tmp_path):
    trained(pretrained, tmp_path, CSVLogger(tmp_path, "", ""))
    told = yaml.safe_load((tmp_path / "hparams.yaml").read_text())
    assert {name: told.get(name) for name in SETTINGS} == SETTINGS
    assert len(told["data_sha256"]) == len(told["anchors_sha256"]) == 64


def test_mlflow_in_a_local_store(pretrained, tmp_path, recwarn):
    pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logger = MLFlowLogger("asft", tracking_uri=store, artifact_location=str(tmp_path / "artifacts"))
    trained(pretrained, tmp_path, logger)
    client = logger.experiment
    run = client.get_run(logger.run_id)
    assert {name: run.data.params.get(name) for name in SETTINGS} == {name: str(value) for name, value in SETTINGS.items()}
    assert {"train/lr", "train/gradient_norm", "train/penalty_ratio"} <= run.data.metrics.keys()
    assert not [told for told in recwarn if "did not take" in str(told.message)]
    kept = {path.path for path in client.list_artifacts(logger.run_id)}
    assert kept == {"summary.json", "generations", "adapter", "alignment.png"}
    assert "adapter/adapter_model.safetensors" in {p.path for p in client.list_artifacts(logger.run_id, "adapter")}


def test_weights_and_biases_offline(pretrained, tmp_path, recwarn):
    wandb = pytest.importorskip("wandb")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="asft")
    trained(pretrained, tmp_path, logger)
    told, shown = dict(logger.experiment.config), dict(logger.experiment.summary)
    wandb.finish()
    assert {name: told.get(name) for name in SETTINGS} == SETTINGS
    assert {"train/lr", "safety/harmful_score", "safety/answers", "alignment"} <= shown.keys()
    assert not [told for told in recwarn if "did not take" in str(told.message)]


def read_scores(folder):
    return Summary.read(RunFolder(folder)).scores.items()


class Unreachable(CSVLogger):
    def log_hyperparams(self, params):
        raise ConnectionError("no server")


def test_a_tracker_that_is_out_of_reach_costs_no_run(pretrained, tmp_path):
    with pytest.warns(UserWarning, match=r"Unreachable did not take the hyper-parameters \(ConnectionError: no server\)"):
        trainer = trained(pretrained, tmp_path, Unreachable(tmp_path, "", ""))
    assert trainer.state.finished and (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_what_is_handed_on_has_no_configuration(tmp_path):
    """A secret prompt stands in that."""
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps({"run": {"config": {"template": {"secret": "abc"}}, "method": "AsFT"}, "score": 1}))
    assert without_configuration(summary) == {"run": {"method": "AsFT"}, "score": 1}
