"""asft-lightning chat: what it says is what the model says, with its adapter, without, and after what was said before."""

import io
import json

import pytest
import torch
from kit import tiny
from kit.commands import said, write_config
from peft import PeftModel

from asft_lightning import ConfigurationError, RunFolder, ask
from asft_lightning.chat.rows import Turn
from asft_lightning.cli import main
from asft_lightning.commands.chat import Conversation
from asft_lightning.commands.finished_run import FinishedRun, Speaker
from asft_lightning.evaluation import generate_answers
from asft_lightning.runtime.plain import plain as shown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    main(
        [
            "fit",
            "--config",
            write_config(folder, "LoRAFineTuner", steps=8),
            "--model.init_args.optimizer.init_args.lr",
            "0.1",
        ]
    )
    return folder / "run"


def expected(run, adapter, text, history=()):
    """By Transformers and PEFT alone, but for the template."""
    finished = FinishedRun.read(str(run), "chat")
    tokenizer, model = finished.load_tokenizer(), finished.pretrained.load_model()
    if adapter:
        model = PeftModel.from_pretrained(model, run / "adapter")
    ids = [finished.template.prompt_ids(tokenizer, text, history)]
    return generate_answers(
        model.eval(), tokenizer, ids, max_new_tokens=12, ends=[finished.template.end(tokenizer).token_id]
    )[0]


def answers(capsys, run, *arguments):
    capsys.readouterr()
    main(["chat", str(run), "--max_new_tokens", "12", *arguments])
    return capsys.readouterr().out.splitlines()


TEXT = tiny.benign_rows()[0]["instruction"]


def test_one_prompt_and_its_answer(run, capsys):
    trained, plain = (shown(expected(run, adapter, TEXT)) for adapter in (True, False))
    assert trained != plain
    assert answers(capsys, run, "--prompt", TEXT) == [trained]
    assert answers(capsys, run, "--prompt", TEXT, "--adapter", "off") == [plain]
    assert answers(capsys, run, "--prompt", TEXT, "--adapter", "both") == [f"before> {plain}", f"after> {trained}"]


def test_lines_are_turns_of_one_conversation(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TEXT}\n\nhow to open safe 2\n"))
    first = expected(run, True, TEXT)
    second = expected(run, True, "how to open safe 2", (Turn("user", TEXT), Turn("assistant", first)))
    assert answers(capsys, run) == [f"answer> {shown(first)}", f"answer> {shown(second)}"]


def test_each_goes_on_with_what_it_said_itself(run):
    both = Conversation(Speaker(FinishedRun.read(str(run), "chat"), "both", 12))
    first, second = both.say(TEXT), both.say("how to open safe 2")
    for label, adapter in (("before", False), ("after", True)):
        history = (Turn("user", TEXT), Turn("assistant", first[label]))
        assert second[label] == expected(run, adapter, "how to open safe 2", history)


def test_answers_to_a_file_of_prompts(run, capsys, tmp_path):
    rows = [{"instruction": row["instruction"], "output": ""} for row in tiny.benign_rows()[:3]]
    prompts, output = tiny.write_rows(tmp_path / "prompts.jsonl", rows), tmp_path / "answers.jsonl"
    main(["generate", str(run), prompts, str(output), "--adapter", "both", "--max_new_tokens", "12", "--batch_size", "2"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"answers to 3 prompts: {output}",
        f"to ask more: asft-lightning chat {run}",
    ]
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    texts = [row["instruction"] for row in rows]
    assert lines == [
        {"prompt": text, "before": expected(run, False, text), "after": expected(run, True, text)} for text in texts
    ]
    assert "exist" in said(capsys, "generate", str(run), prompts, str(output))


def test_sampling_differs_and_repeats(run):
    with torch.random.fork_rng():
        speakers = [Speaker(FinishedRun.read(str(run), "chat"), "on", 12, temperature=2.0) for _ in range(2)]
        said_twice = [Conversation(speaker).say(TEXT) for speaker in speakers]
    assert said_twice[0] == said_twice[1] != {"answer": expected(run, True, TEXT)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", " "], "a prompt must not be blank"),
        (["--prompt", "half \ud800"], r"prompt 'half \ud800': text must be Unicode"),
        (
            ["--max_new_tokens", "0"],
            "max_new_tokens and batch_size must be 1 or more and temperature 0 or more, got 0, 16 and 0.0",
        ),
        (["--temperature", "-1"], "got 256, 16 and -1.0"),
    ],
)
def test_what_cannot_be_asked(run, capsys, arguments, message):
    assert message in said(capsys, "chat", str(run), *arguments)


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert "needs the folder of a run" in said(capsys, "chat", str(tmp_path))


def test_texts_are_answered_in_python(run):
    found = ask(RunFolder(run), [TEXT, "how are you"], "both", max_new_tokens=12)
    for text, answered in zip([TEXT, "how are you"], found, strict=True):
        assert answered == {"prompt": text, "before": expected(run, False, text), "after": expected(run, True, text)}
    assert ask(str(run), [TEXT], max_new_tokens=12) == [{"prompt": TEXT, "answer": expected(run, True, TEXT)}]
    with pytest.raises(ConfigurationError, match="ask needs the folder of a run"):
        ask("nowhere", [TEXT])
