"""MixtureDataModule: benign and harmful rows in, batches out."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

from lightning.pytorch.trainer.states import TrainerFn
from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.rows import Row
from asft_lightning.chat.template import Rendered, Template
from asft_lightning.chat.vocabulary import require_known
from asft_lightning.data.audit import Audit
from asft_lightning.data.description import Description, describe
from asft_lightning.data.example import Example
from asft_lightning.data.example_batches import ExampleBatches
from asft_lightning.data.mixture import Mixture, Poison, mix
from asft_lightning.data.mixture_sources import named, pools, require_sources
from asft_lightning.data.rulings import faulted, read_audit, request_of, ruled
from asft_lightning.data.same_rows import batches, identity, require_same
from asft_lightning.data.source import Source
from asft_lightning.errors import DataError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.collecting import without_full_collections
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.ranks import of_every_rank
from asft_lightning.weights.pretrained import Pretrained


class MixtureDataModule(ExampleBatches):
    """n training rows of which a share p is harmful (arXiv 2506.08473, section 4: n 1000, p 0.1).

    Args:
        pretrained: Whose tokenizer to use.
        benign: The fine-tuning task's rows: one source, or several that share n by their weights. A ready-mixed file is
            used as it is with ``num_rows`` null, ``poison_ratio`` 0 and, where a column tells its harmful rows, ``flag``.
        harmful: Rows of unsafe requests with complying answers; needed where ``poison_ratio`` > 0.
        safety: Rows of unsafe requests with refusals (SafeInstr, arXiv 2309.07875; with ``template.secret``, BEA; kept
            apart, Lisa); not read where ``safety_rows`` is 0.
        template: How rows are written for the model; the same object renders scored prompts.
        num_rows: n; null for all usable benign rows.
        poison_ratio: p, the harmful share, 0..1; round(p·n) rows.
        poison: ``replace``: harmful rows are among the n, as in the paper; ``add``: they come beside n benign ones.
        safety_rows: How many safety rows come beside them.
        safety_apart: Keep the safety rows out of the training rows, for a method that asks for batches of them.
        val_rows: Further benign rows, held out for the validation loss.
        batch_size: Rows a batch and device.
        group_by_length: Train on batches of rows of similar length, as Transformers' Trainer does under this name: less
            padding. Rows of one kind then meet in a batch more often, which changes training a little.
        packing: Lay a batch's short rows end to end instead of padding them, see :class:`AnswerOnlyCollator`.
        seed: Which rows are drawn, and their order; null takes the run's ``seed_everything``.
        num_workers: Processes that collate; 0 is best for rows that are already token ids.
        audit: Have the aligned model look through the training rows before a fit, and drop, relabel or weigh those that it
            flags: :class:`Audit`.

    Raises:
        DataError: If a count, a share or a source cannot be used.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        benign: Source | list[Source],
        harmful: Source | list[Source] | None = None,
        safety: Source | list[Source] | None = None,
        template: Template = Template(),  # noqa: B008 (frozen)
        num_rows: int | None = 1000,
        poison_ratio: float = 0.1,
        poison: Poison = "replace",
        safety_rows: int = 0,
        safety_apart: bool = False,
        val_rows: int = 0,
        batch_size: int = 8,
        group_by_length: bool = False,
        packing: bool = False,
        seed: int | None = None,
        num_workers: int = 0,
        audit: Audit | None = None,
    ) -> None:
        super().__init__()
        require_sources(benign, harmful, safety, num_rows, poison_ratio, safety_rows)
        if safety_apart and not safety_rows:
            raise DataError("safety_apart keeps safety rows for a method such as Lisa, and safety_rows is 0. Ask for some.")
        if poison not in ("replace", "add"):
            raise DataError(f"poison must be replace or add, got {poison!r}. The paper replaces.")
        if batch_size < 1 or val_rows < 0:
            raise DataError(f"batch_size must be ≥ 1 and val_rows ≥ 0, got {batch_size} and {val_rows}. Paper: 8 and 0.")
        self.pretrained = pretrained
        self.sources = named({"benign": benign, "harmful": harmful, "safety": safety})
        self.template = template
        self.num_rows = num_rows
        self.poison_ratio = poison_ratio
        self.poison = poison
        self.safety_rows = safety_rows
        self.safety_apart = safety_apart
        self.val_rows = val_rows
        self.batch_size = batch_size
        self.group_by_length = group_by_length
        self.packing = packing
        self.seed = seed
        self.num_workers = num_workers
        self.audit = audit
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self._drawn: Mixture | None = None
        self._mixture: Mixture | None = None
        self._identity: dict[str, str] = {}

    @property
    def mixture(self) -> Mixture:
        """The rows of this run; in a fit, after the audit if there is one."""
        return self.drawn if self._mixture is None else self._mixture

    @property
    def drawn(self) -> Mixture:
        """The rows as they were drawn, before any audit."""
        if self._drawn is None:
            raise RuntimeError("rows are drawn in setup(): call datamodule.setup() first")
        return self._drawn

    @property
    def unsafe_prompts(self) -> frozenset[str]:
        """Prompts of the harmful and safety training rows: no harmful score may be measured on them."""
        return frozenset(example.row.prompt for example in self.mixture.trained if example.kind != "benign")

    def fingerprint(self) -> dict[str, object]:
        """What was trained on, to record beside a result."""
        facts = self.mixture.facts()
        return {"data_sha256": self._identity["data_sha256"], **facts}

    def describe(self) -> Description:
        """Hash, counts, token lengths, and the first rows as the model sees them: see :func:`describe`."""
        self.setup()
        assert self.tokenizer is not None
        description = Description(sha256=self._identity["data_sha256"], **describe(self.mixture, self.tokenizer))
        for source in description["sources"]:
            source["licence"] = self.sources[source["name"]][1].entry.licence
        return description

    def prepare_data(self) -> None:
        """Read everything once before models are loaded, so that a mistake in the data shows first."""
        self.setup()
        if self._is_fitting:
            self._write_description()

    def setup(self, stage: str | None = None) -> None:
        """Load, render and draw the rows, and for a fit do what its audit rules; the same on every rank.

        Raises:
            DataError: If an audit is asked for, and the module that is fitted has made none.
        """
        if stage is not None:  # every rank comes here; what was read before, some did alone
            self._take_first_ranks_day()
        if self._drawn is None:
            with without_full_collections():
                self._draw()
        if stage == TrainerFn.FITTING and self.audit is not None:
            self._rule(self.audit)

    def _take_first_ranks_day(self) -> None:
        """One date for all rows, also where ranks began on both sides of midnight."""
        template = self.template.on(of_every_rank(self.template.day)[0])
        if template is not self.template:
            self.template, self._drawn = template, None

    def _draw(self) -> None:
        tokenizer = self.tokenizer = self.pretrained.load_tokenizer()
        mixture = self._drawn = mix(
            pools(self.sources, "benign"),
            pools(self.sources, "harmful") if self.poison_ratio else [],
            self.encode,
            safety=pools(self.sources, "safety") if self.safety_rows else [],
            num_rows=self.num_rows,
            poison_ratio=self.poison_ratio,
            poison=self.poison,
            safety_rows=self.safety_rows,
            safety_apart=self.safety_apart,
            held_out=self.val_rows,
            seed=self._seed(),
        )
        rows = (input_ids for _, input_ids, _ in Example.unpacked(mixture.train + mixture.held_out))
        padding = [cast(int, tokenizer.pad_token_id)]
        require_known(chain([padding], rows), self.pretrained.vocabulary_size(), "training rows and their padding")
        mixture.warn_of_contradictions()
        mixture.warn_of_unread()
        self._identity = identity(mixture, self.template)

    def encode(self, rows: Sequence[Row]) -> list[Rendered]:
        """Rows in token ids, as the model is trained on them."""
        assert self.tokenizer is not None
        return self.template.render_all(self.tokenizer, rows)

    def _rule(self, audit: Audit) -> None:
        """Do what the audit that the run's folder holds rules."""
        assert self.trainer is not None
        rulings, report = read_audit(RunFolder.of(self.trainer), request_of(self.drawn, audit))
        self._mixture = ruled(self.drawn, rulings, report, self.encode)
        self._identity = identity(self.mixture, self.template)
        if self.trainer.is_global_zero:
            self._write_description()

    def flagged_rows(self) -> list[Row]:
        """The drawn rows that this fit's audit drops, relabels or weighs, each up to the answer at fault and without it.

        Raises:
            DataError: If an audit is asked for, and none was made.
        """
        assert self.trainer is not None
        if self.audit is None:
            return []
        rulings, _ = read_audit(RunFolder.of(self.trainer), request_of(self.drawn, self.audit))
        return faulted(self.drawn, rulings)

    def _write_description(self) -> None:
        assert self.trainer is not None
        write_json(RunFolder.of(self.trainer).data, self.describe())

    @property
    def _is_fitting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def state_dict(self) -> dict[str, Any]:
        """What tells these rows from others, for a run that is resumed."""
        return self._identity | batches(self.batch_size * self._ranks()[0], self.group_by_length)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the rows with those that the run began with.

        Raises:
            DataError: If they are others, and are to be trained on.
        """
        if self._is_fitting:
            require_same(state_dict, self.state_dict())
