"""WiseRater: a vision model behind a server rates each image by its prompt's explanation."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation.endpoint_client import Conversation, Endpoint, Reply
from asft_lightning.evaluation.raters import first_object
from asft_lightning.evaluation.settings import fill, shortened
from asft_lightning.evaluation.wise.images import data_url, read_image
from asft_lightning.evaluation.wise.kept_replies import KeptReplies
from asft_lightning.evaluation.wise.records import WiseRecord
from asft_lightning.metrics import WISE_VERSIONS
from asft_lightning.runtime.files import user_path
from asft_lightning.runtime.reading import readable

_RATING_TOKENS = 200
_TIMES = 2
"""How often an image is asked about, where the reply to the first time is no rating."""

_FIRST = 3
"""Images that are asked about one by one at first: a server that sees none refuses them all."""


class ImageRating(NamedTuple):
    """A server's opinion on one image.

    Attributes:
        ratings: {axis: whole number}; None where there is none.
        problem: Why not.
    """

    ratings: dict[str, int] | None
    problem: str | None = None


class WiseRater:
    """Asks a vision model about each image once, or twice where its first reply is no rating.

    Args:
        endpoint: The server and the model's name there.
        version: Of ``WISE_VERSIONS``: which axes, and up to which number.
        instructions: File with what to ask about ``{prompt}`` and ``{explanation}``; null for the package's own.

    Raises:
        ConfigurationError: If there is no such version, or the file cannot be used.
    """

    def __init__(self, endpoint: Endpoint, version: str = "legacy", instructions: str | None = None) -> None:
        if version not in WISE_VERSIONS:
            raise ConfigurationError(f"version must be one of {', '.join(WISE_VERSIONS)}, got {version!r}.")
        self.endpoint = endpoint
        self.version = WISE_VERSIONS[version]
        self.instructions = _own(version) if instructions is None else _read(user_path(instructions))

    def rate(self, records: Sequence[WiseRecord], images: Mapping[int, Path], kept: KeptReplies) -> dict[int, ImageRating]:
        """{id: rating} of each image that is there; what is kept is not asked again.

        Raises:
            ConfigurationError: If nothing is kept and the server says nothing to the first images: it may see none.
            DataError: If a file is no image.
            StorageError: If a reply cannot be kept.
        """
        asked = [_Question(self, record, images[record.id]) for record in records if record.id in images]
        problems: dict[int, str] = {}
        if not any(kept.of(question.key) for question in asked):
            self._require_sight(asked[:_FIRST], kept, problems)
        for times in range(_TIMES):
            due = [q for q in asked if len(kept.of(q.key)) == times and q.record.id not in problems]
            self._ask([q for q in due if not times or self.parse(kept.of(q.key)[-1]).ratings is None], kept, problems)
        return {q.record.id: self._rating(kept.of(q.key), problems.get(q.record.id)) for q in asked}

    def parse(self, reply: str) -> ImageRating:
        """What a reply says: its first JSON object has a whole number in range for every axis, or it is no rating."""
        said = first_object(reply)
        if said is None:
            return ImageRating(None, f"said no JSON object, but {shortened(reply)!r}")
        highest = self.version.highest
        wrong = [axis for axis in self.version.axes if type(said.get(axis)) is not int or not 0 <= said[axis] <= highest]
        if wrong:
            found = ", ".join(f"{axis} {shortened(repr(said[axis]), 20) if axis in said else 'absent'}" for axis in wrong)
            return ImageRating(None, f"ratings must be whole numbers from 0 to {highest}, got {found}")
        return ImageRating({axis: said[axis] for axis in self.version.axes})

    def _require_sight(self, first: Sequence["_Question"], kept: KeptReplies, problems: dict[int, str]) -> None:
        for question in first:
            self._ask([question], kept, problems)
            if kept.of(question.key):
                return
        raise ConfigurationError(
            f"the endpoint must answer questions about images, and {self.endpoint.model!r} at {self.endpoint.url} answered "
            f"none of the first {len(first)} ({problems[first[-1].record.id]}). Name a vision model that is served there."
        )

    def _ask(self, questions: Sequence["_Question"], kept: KeptReplies, problems: dict[int, str]) -> None:
        def keep(place: int, reply: Reply) -> None:
            question = questions[place]
            if reply.text is not None:
                kept.keep(question.key, question.record.id, reply.text)

        replies = self.endpoint.ask(_Conversations(questions, kept), _RATING_TOKENS, keep)
        for question, reply in zip(questions, replies, strict=True):
            if reply.problem is not None:
                problems[question.record.id] = reply.problem

    def _rating(self, replies: Sequence[str], problem: str | None) -> ImageRating:
        rating = self.parse(replies[-1]) if replies else ImageRating(None, problem)
        return rating if rating.ratings is not None or problem is None else ImageRating(None, problem)


class _Question:
    """One image and what is asked about it."""

    def __init__(self, rater: WiseRater, record: WiseRecord, image: Path) -> None:
        self.record = record
        self.image = image
        self.text = fill(rater.instructions, prompt=record.prompt, explanation=record.explanation)
        asked = hashlib.sha256(json.dumps([rater.endpoint.model, record.id, self.text]).encode())
        asked.update(hashlib.sha256(read_image(image)).digest())
        self.key = asked.hexdigest()[:32]
        """By the model, the words and the image itself: where one of these changes, it is asked anew."""


class _Conversations(Sequence[Conversation]):
    """Made when they are sent: a thousand images would not fit into memory."""

    def __init__(self, questions: Sequence[_Question], kept: KeptReplies) -> None:
        self._questions = questions
        self._kept = kept

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, place: Any) -> Any:
        question = self._questions[place]
        image = {"type": "image_url", "image_url": {"url": data_url(question.image)}}
        conversation = [{"role": "user", "content": [{"type": "text", "text": question.text}, image]}]
        for reply in self._kept.of(question.key):
            conversation += [{"role": "assistant", "content": reply}, {"role": "user", "content": _AGAIN}]
        return conversation


_AGAIN = "That is not in the form that was asked for. Reply with the JSON object alone, with whole numbers within the range."


def _own(version: str) -> str:
    return files("asft_lightning.evaluation.wise").joinpath(f"{version}.txt").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    text = readable(path, lambda: path.read_text(encoding="utf-8"), "instructions")
    if lacking := [name for name in ("{prompt}", "{explanation}") if name not in text]:
        raise ConfigurationError(
            f"instructions must say where the prompt and its explanation stand, and {path} lacks {' and '.join(lacking)}. "
            "Write them there; the package's own are in asft_lightning/evaluation/wise."
        )
    return text
