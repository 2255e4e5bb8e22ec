"""``asft-lightning chat``: talk to what a run trained, and to what it was trained from."""

import sys
from collections.abc import Iterator

from asft_lightning.chat.rows import Row, Turn
from asft_lightning.commands.finished_run import Adapter, FinishedRun, Speaker
from asft_lightning.commands.ways_on import after_talk
from asft_lightning.errors import ConfigurationError
from asft_lightning.runtime.terminal import say

EXAMPLES = (
    "chat runs/protect",
    'chat runs/protect --prompt "What is a good name for a cat?" --adapter both',
)


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
        run: The folder of a finished run of protect or fit, e.g. runs/protect.
        prompt: Answer this and end; null to talk. Where the input is no terminal, each of its lines is
            a turn, and blank ones are passed over.
        adapter: ``on`` for the trained model, ``off`` for the one it was trained from, ``both`` for one beside the other.
        max_new_tokens: Longest answer, in tokens.
        temperature: Of sampling; 0 always says what is likeliest.
        trust_remote_code: Run Python code that comes with the checkpoint.
    """
    speaker = Speaker(FinishedRun.read(run, "chat", trust_remote_code), adapter, max_new_tokens, temperature)
    conversation = Conversation(speaker)
    for asked in [prompt] if prompt is not None else _lines():
        for name, answer in conversation.say(asked).items():
            say(answer if prompt is not None and adapter != "both" else f"{name}> {answer}")
    if prompt is None and sys.stdin.isatty():  # a program that asks wants the answers alone
        say(*after_talk(run))


COMMAND = chat


class Conversation:
    """A conversation in which each who answers goes on with what it said itself.

    Args:
        speaker: Who answers.
    """

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._said: dict[str, tuple[Turn, ...]] = dict.fromkeys(speaker.names, ())

    def say(self, text: str) -> dict[str, str]:
        """{who answers: what}.

        Args:
            text: What the user says.

        Raises:
            ConfigurationError: If it is blank.
        """
        if not text.strip():
            raise ConfigurationError("a prompt must not be blank, got none. Say something.")
        answers = {}
        for name, history in self._said.items():
            (answers[name],) = self._speaker.answers(name, [Row(text, "", history)])
            self._said[name] = (*history, Turn("user", text), Turn("assistant", answers[name]))
        return answers


def _lines() -> Iterator[str]:
    """What the user types, up to an empty line; or what another program writes, up to its end."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            sys.stdout.write("you> ")
            sys.stdout.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:  # the usual way out
            return
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"what is asked must be UTF-8, and a line is not ({error}). Convert it.") from error
        if not line or (is_terminal and not line.strip()):
            return
        if line.strip():
            yield line.strip()
