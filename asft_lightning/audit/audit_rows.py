"""From training rows to rulings on them, written into the run's folder."""

import json

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from asft_lightning.audit.aligned_model import AlignedModel
from asft_lightning.audit.flagging import flags, rulings_on
from asft_lightning.audit.known_rows import KnownRows
from asft_lightning.audit.named_rows import read_named
from asft_lightning.audit.picture import draw_audit
from asft_lightning.audit.report import AuditReport, report_of
from asft_lightning.audit.scores import Layers, asked_scores
from asft_lightning.audit.thresholds import bounds_of
from asft_lightning.chat.rows import Row, row_hash
from asft_lightning.data.audit import Audit
from asft_lightning.data.mixture_data_module import MixtureDataModule
from asft_lightning.data.rulings import request_of
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runtime.extras import is_installed
from asft_lightning.runtime.files import write_atomically, write_json
from asft_lightning.weights.hashing import text_hash


def audit_run(trainer: Trainer) -> None:
    """Audit the rows of a fit whose data asks for it: a LightningModule calls this in its ``prepare_data``.

    Args:
        trainer: The run; others than a fit, and other data than a :class:`MixtureDataModule`, are left alone.
    """
    data = _audited(trainer)
    if data is not None and data.audit is not None:
        layers = getattr(trainer.lightning_module, "trained_layers", None)
        report = audit_data(data, data.audit, RunFolder.of(trainer), trainer, layers)
        if report is not None:
            report.show()


def flagged_rows(trainer: Trainer) -> list[Row]:
    """The training rows of a fit that its audit drops, relabels or weighs, each up to the answer at fault and without it.

    Args:
        trainer: The run, after :func:`audit_run`; without an audit it has none.

    Raises:
        DataError: If the audit cannot be read.
    """
    data = _audited(trainer)
    return [] if data is None else data.flagged_rows()


def _audited(trainer: Trainer) -> MixtureDataModule | None:
    data = getattr(trainer, "datamodule", None)
    is_asked = isinstance(data, MixtureDataModule) and data.audit is not None and trainer.state.fn == TrainerFn.FITTING
    return data if is_asked else None


def audit_data(
    data: MixtureDataModule,
    audit: Audit,
    folder: RunFolder,
    trainer: Trainer | None = None,
    layers: Layers | None = None,
) -> AuditReport | None:
    """Audit rows and write what is found into a folder; what it holds already of the same audit stays.

    Args:
        data: Whose rows.
        audit: What is asked, and what becomes of flagged rows.
        folder: Where ``audit.json``, ``audit.jsonl`` and ``audit.png`` go.
        trainer: On whose device and in whose precision the aligned model is asked; None for as it is loaded.
        layers: What is to be trained, for ``conflict``.

    Returns:
        What was found; None where that stands there already.

    Raises:
        DataError: If harmless rows or named rows cannot be read, or there are too few harmless ones.
    """
    data.setup()
    assert data.tokenizer is not None
    device, precision = (trainer.strategy.root_device, trainer.precision_plugin) if trainer else (None, None)
    aligned = AlignedModel(data.pretrained, data.tokenizer, data.template, device, audit.batch_size, precision)
    examples, known = data.drawn.train, KnownRows.read(audit, data)
    keep, flag = read_named(audit.keep, "keep"), read_named(audit.flag, "flag")
    request = request_of(data.drawn, audit)
    key = text_hash(request, str([sorted(keep), sorted(flag)]), known.content, aligned.identity)
    if _is_there(folder, key):
        return None
    asked = asked_scores(audit, known, layers)
    scores = {score.name: score(aligned, examples) for score in asked}
    bounds = {score.name: bounds_of(score, scores[score.name], audit, known, aligned) for score in asked}
    thresholds = {score.name: max(bounds[score.name].values(), default=score.threshold) for score in asked}
    suspects = flags(examples, scores, thresholds, flag)
    flagged = [found for found in suspects if row_hash(examples[found.place].row) not in keep]
    rulings = rulings_on(flagged, examples, audit, aligned, data.encode)
    rates = {name: getattr(audit, name) for found in bounds.values() for name in found}
    report = report_of(examples, rulings, thresholds, rates, len(suspects) - len(flagged))
    lines = (
        json.dumps(ruling.plain() | found.plain(examples[found.place]), ensure_ascii=False)
        for ruling, found in zip(rulings, flagged, strict=True)
    )
    write_atomically(folder.audited_rows, "".join(f"{line}\n" for line in lines))
    if is_installed("matplotlib"):
        draw_audit(scores, thresholds, {found.place for found in flagged}, folder.audit_picture)
    write_json(folder.audit, {"request": request, "key": key, **report.plain()})  # the last: it says that all is there
    return report


def _is_there(folder: RunFolder, key: str) -> bool:
    try:
        return bool(json.loads(folder.audit.read_text(encoding="utf-8"))["key"] == key) and folder.audited_rows.is_file()
    except (OSError, ValueError, LookupError, TypeError):
        return False
