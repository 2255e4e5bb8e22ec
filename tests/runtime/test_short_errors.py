"""What a newcomer mistypes ends in a few lines that name it, with status 2, before anything is loaded or written."""

import pytest

from asft_lightning.cli import main

FIT = {
    "--trainer.maxsteps=3": "there is no argument --trainer.maxsteps=3. Did you mean --trainer.max_steps",
    "--lr=3": "there is no argument --lr=3. `asft-lightning fit --help all` lists them.",
    "--model.init_args.lambda_reg=abc": "class_path 'asft_lightning.AsFT': lambda_reg: expected float, got abc",
    "--model.init_args.lambdareg=1": "class_path 'asft_lightning.AsFT': Option 'lambdareg' is not accepted",
    "--model=asft_lightning.ASFT": "model: class_path 'asft_lightning.ASFT': No asft_lightning attribute ASFT",
    "--trainer.max_steps=x": "trainer.max_steps: expected int, got x",
    "--data.init_args.num_rows=many": "num_rows: expected int or null, got many",
    "--model.init_args.anchors=[{class_path: asft_lightning.Gramm}]": "No asft_lightning attribute Gramm",
    "--trainer.callbacks+=[{class_path: asft_lightning.Nope}]": "No asft_lightning attribute Nope",
    "--model.init_args.answers.num_prompts=x": "num_prompts: expected int, got x",
    "--trainer.logger={class_path: CSVLogger, init_args: {foo: 1}}": "CSVLogger': Option 'foo' is not accepted",
    "--trainer.logger=TensorBord": "trainer.logger: there is no class TensorBord: write its path",
    "--trainer.logger=CometLogger": "loggers.CometLogger cannot be made: Requirement 'comet-ml",
    "--trainer.logger=[CometLogger]": "loggers.CometLogger cannot be made: Requirement 'comet-ml",
    "--trainer.callbacks+={class_path: EarlyStopping, init_args: {monitor: a, mode: b}}": "`mode` can be min, max, got b",
    "--pretrained.aligned": "argument --pretrained.aligned: expected one argument",
}
OTHERS = {
    ("anchors", "shw"): "invalid choice: 'shw' (choose from",
    ("anchors", "show"): "the following arguments are required: anchors",
    ("export",): "the following arguments are required: run, output",
    ("project-adapter", "--mehod=x"): "Did you mean --method",
    ("describe", "--foo"): "there is no argument --foo",
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [*((("fit", "--config", "quickstart", argument), told) for argument, told in FIT.items()), *OTHERS.items()],
)
def test_mistyped_arguments_end_in_a_few_lines(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    told = capsys.readouterr().err

    assert exit_info.value.code == 2
    assert expected in told
    assert "usage" not in told and "Traceback" not in told and len(told.strip().splitlines()) <= 5
    assert not list(tmp_path.iterdir())
