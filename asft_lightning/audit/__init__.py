"""What the aligned model says of each training row: refused, surprise, likeness, conflict; report, drop, relabel, weigh."""

from asft_lightning.audit.audit_rows import audit_data, audit_run, flagged_rows
from asft_lightning.audit.report import AuditReport
from asft_lightning.audit.score import RowScore, Score

__all__ = ["AuditReport", "RowScore", "Score", "audit_data", "audit_run", "flagged_rows"]
