"""``asft-lightning chat``: talk to what a run trained, and to what it was trained from."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from peft import PeftModel

from asft_lightning.chat.rows import Turn
from asft_lightning.commands.finished_run import FinishedRun
from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation import generate_answers
from asft_lightning.runtime.terminal import say
from asft_lightning.weights.adapters_off import without_adapters

Adapter = Literal["on", "off", "both"]

EXAMPLES = (
    "chat runs/protect",
    'chat runs/protect --prompt "What is a good name for a cat?" --adapter both',
)

_LABELS: Mapping[Adapter, tuple[str, ...]] = {"on": ("model",), "off": ("model",), "both": ("before", "after")}


def chat(
    run: str,
    prompt: str | None = None,
    adapter: Adapter = "on",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    trust_remote_code: bool = False,
) -> None:
    """Talk to a run's model, written to as its rows were. An empty line ends it.

    Args:
        run: The run's folder.
        prompt: Answer this and end; null to talk. Where the input is no terminal, each of its lines is a turn.
        adapter: ``on`` for the trained model, ``off`` for the one it was trained from, ``both`` for one beside the other.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 always says what is likeliest.
        trust_remote_code: Run Python code that comes with the checkpoint.
    """
    if max_new_tokens < 1 or not 0 <= temperature < float("inf"):
        raise ConfigurationError(
            f"max_new_tokens must be 1 or more and temperature 0 or more, got {max_new_tokens} and {temperature}. Leave "
            "them out for 256 and 0."
        )
    finished = FinishedRun.read(run, "chat", trust_remote_code)
    conversation = Conversation(finished, adapter, max_new_tokens, temperature)
    for asked in [prompt] if prompt is not None else _lines():
        for label, answer in conversation.say(asked).items():
            say(answer if prompt is not None and adapter != "both" else f"{label}> {answer}")


COMMAND = chat


class Conversation:
    """A conversation with the model of a finished run, with its adapter or without, or both side by side.

    Args:
        run: The run.
        adapter: Which of them answers.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 is greedy.
    """

    def __init__(
        self, run: FinishedRun, adapter: Adapter = "on", max_new_tokens: int = 256, temperature: float = 0.0
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._template, self._tokenizer = run.template, run.load_tokenizer()
        self._model: PeftModel = run.load_model().to(device).eval()
        self._adapter, self._max_new_tokens, self._temperature = adapter, max_new_tokens, temperature
        self._said: dict[str, tuple[Turn, ...]] = dict.fromkeys(_LABELS[adapter], ())

    def say(self, text: str) -> dict[str, str]:
        """{who answers: what}; each goes on with what it said itself.

        Args:
            text: What the user says.

        Raises:
            ConfigurationError: If it is blank.
        """
        if not text.strip():
            raise ConfigurationError("a prompt must not be blank, got none. Say something.")
        answers = {}
        for label, history in self._said.items():
            with self._as(label):
                answers[label] = self._answer(text, history)
            self._said[label] = (*history, Turn("user", text), Turn("assistant", answers[label]))
        return answers

    def _as(self, label: str) -> AbstractContextManager[None]:
        is_off = self._adapter == "off" or label == "before"
        return without_adapters(self._model) if is_off else nullcontext()

    def _answer(self, text: str, history: tuple[Turn, ...]) -> str:
        (answer,) = generate_answers(
            self._model,
            self._tokenizer,
            [self._template.prompt_ids(self._tokenizer, text, history)],
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            seed=len(history),
            ends=[self._template.end(self._tokenizer).token_id],
        )
        return answer


def _lines() -> Iterator[str]:
    """What the user types, up to an empty line or the end of the input."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            sys.stdout.write("you> ")
            sys.stdout.flush()
        if not (line := sys.stdin.readline().strip()):
            return
        yield line
