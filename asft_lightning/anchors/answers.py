"""Beyond the paper: keep what the aligned model answers to unsafe prompts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_warn

from asft_lightning.anchors.cache import keep, read_if_kept
from asft_lightning.anchors.kept_answers import KeptAnswers
from asft_lightning.anchors.manner import Manner
from asft_lightning.anchors.nearly_alike import nearly_among
from asft_lightning.anchors.probe import Probe
from asft_lightning.chat.rows import Row
from asft_lightning.data import Source
from asft_lightning.data.by_turns import first_rows
from asft_lightning.errors import AnchorError
from asft_lightning.runtime.files import cache_folder
from asft_lightning.runtime.terminal import say
from asft_lightning.weights.hashing import content_hash, text_hash
from asft_lightning.weights.matrices import Weights

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """Holds the model's answers to some prompts to those it gave before: + weight · KL(aligned ‖ current).

    The answers are the aligned model's own, greedy ones; none is written by hand. The divergence is the mean over the tokens
    of ``rows_per_step`` answers an optimizer step, in nats, so that the weight has no unit but the loss's.

    Args:
        prompts: Unsafe prompts, from one source or by turns from several, such as of different styles; answers are not
            needed nor looked at. Never those that the harmful score is measured on.
        harmless: Harmless prompts whose answers are held as well, as many; null for none. Never those that over-refusal is
            measured on. One that is nearly the prompt of a training row is not held: the row says what to answer there.
        flagged: Hold the answers to prompts of the training rows that ``data.audit`` drops, relabels or weighs as well, as
            many: poison that the audit finds then tells of poison like it that it does not. Where they are asked alike and
            the other rows are not (:class:`Manner`), the unsafe prompts are held as asked so, too.
        num_prompts: How many of each, from the first.
        max_new_tokens: Of an answer: how a model begins says whether it refuses. 0 holds what it would begin with, alone.
        rows_per_step: Answers compared in an optimizer step, in turn, in a seeded order.
        weight: What the divergence is multiplied with, > 0; it does not know ``lambda_reg``.
        budget: Hold the divergence at or below this, in nats, > 0: the weight then adapts, and ``weight`` is what it starts
            at; null for a weight that stays.
        batch_size: Prompts a batch when the aligned model answers.

    Raises:
        AnchorError: If a number cannot be.
    """

    prompts: Source | list[Source]
    harmless: Source | None = None
    flagged: bool = True
    num_prompts: int = 64
    max_new_tokens: int = 24
    rows_per_step: int = 2
    weight: float = 3.0
    budget: float | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse settings that cannot be before anything is read."""
        counts = (self.num_prompts, self.rows_per_step, self.batch_size)
        if min(counts) < 1 or self.max_new_tokens < 0 or not 0 < self.weight < float("inf"):
            raise AnchorError(
                "Answers needs num_prompts, rows_per_step and batch_size of 1 or more, max_new_tokens of 0 or more and a "
                f"weight above 0, got {', '.join(map(str, counts))}, {self.max_new_tokens} and {self.weight}. Leave "
                "`answers` out to do without."
            )
        if self.budget is not None and not 0 < self.budget < float("inf"):
            raise AnchorError(
                f"the budget of Answers must be a number of nats above 0, got {self.budget}. Leave it out for a weight that "
                "stays."
            )

    def rows(self, flagged: Sequence[Row] = (), taught: Sequence[Row] = ()) -> list[Row]:
        """The prompts.

        Args:
            flagged: Training rows that an audit flags, each up to the answer at fault; the same prompt counts once.
            taught: The training rows that none flags.

        Raises:
            DataError: If the sources cannot be read.
        """
        found = list(dict.fromkeys((row.history, row.prompt) for row in flagged if self.flagged))
        unsafe = first_rows(self.prompts, self.num_prompts)
        asked_so = self._asked_like(flagged, taught, unsafe) if self.flagged else []
        return [
            *unsafe,
            *asked_so,
            *self._untaught(taught),
            *(Row(prompt, "", history) for history, prompt in found[: self.num_prompts]),
        ]

    def _asked_like(self, flagged: Sequence[Row], taught: Sequence[Row], unsafe: Sequence[Row]) -> list[Row]:
        """The unsafe prompts as the flagged rows are asked, where those have a manner of their own."""
        manner = Manner.of(flagged, taught)
        if manner is None:
            return []
        say(f"the rows that the audit flags are asked {manner}: the unsafe prompts are held as asked so, too")
        return [manner.ask(row) for row in unsafe]

    def _untaught(self, taught: Sequence[Row]) -> list[Row]:
        """The harmless prompts, but those that the task itself says what to answer to."""
        rows = [] if self.harmless is None else first_rows(self.harmless, self.num_prompts)
        is_taught = nearly_among([row.prompt for row in rows], [row.prompt for row in taught if not row.history])
        if any(is_taught):
            rank_zero_warn(
                f"{sum(is_taught)} of {len(rows)} harmless prompts are nearly prompts of training rows, which say what to "
                "answer there: they are not held. Score over-refusal."
            )
        return [row for row, is_one in zip(rows, is_taught, strict=True) if not is_one]

    def build(self, probe: Probe, aligned: Weights, flagged: Sequence[Row] = (), taught: Sequence[Row] = ()) -> KeptAnswers:
        """The aligned model's answers, from the user's cache where they were built before.

        Args:
            probe: The aligned model.
            aligned: Its weights, which tell the answers from another model's in the cache.
            flagged: As in :meth:`rows`.
            taught: Likewise.

        Raises:
            ConfigurationError: If a prompt has token ids that the model has no embedding for.
        """
        rows = self.rows(flagged, taught)
        prompts = probe.prompt_ids(rows)
        ids = content_hash((str(i), torch.tensor(ids)) for i, ids in enumerate(prompts))
        parts = (KeptAnswers.FORMAT, ids, str(self.max_new_tokens), aligned.whole_fingerprint(), probe.loading)
        file = cache_folder() / "answers" / f"{text_hash(*parts)[:32]}.safetensors"
        kept = read_if_kept(file, KeptAnswers.load)
        if kept is not None and not kept.are_to(prompts):
            _log.warning("%s holds the answers to something else. Building them again.", file)
            kept = None
        if kept is None:
            kept = probe.answers(rows, self.max_new_tokens, self.batch_size)
            keep(kept, file)
        return kept
