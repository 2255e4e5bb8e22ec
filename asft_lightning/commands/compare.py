"""``asft-lightning compare``: methods side by side, from one file to one report."""

import signal
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module

from asft_lightning.comparison import load_comparison
from asft_lightning.comparison.compare import Compare
from asft_lightning.runtime.extras import require_extra
from asft_lightning.runtime.files import clear_unfinished

EXAMPLES = ("compare compare/sandbox", "compare my-comparison.yaml --report_only")


def compare(file: str, jobs: int | None = None, report_only: bool = False) -> None:
    """Run the methods of one file side by side, as far as that is not done yet, and write the report.

    Several of this command share the runs, also on several machines, where they see the same folder.
    The exit status is 1 where a run failed, and 130 after Ctrl-C.

    Args:
        file: The comparison: a file, or one of this package's own, e.g. compare/sandbox. docs/comparing.md says what it
            holds.
        jobs: Runs at once, in place of the file's.
        report_only: Run nothing; report what there is.
    """
    require_extra("matplotlib", "a picture")
    comparison = load_comparison(file)
    if jobs is not None:
        comparison = replace(comparison, jobs=jobs)
    report = None
    if not report_only:
        import_module("asft_lightning.commands.fit")  # once, for all runs that are forked
    with suppress(KeyboardInterrupt):
        clear_unfinished(comparison.folder)
        report = Compare(comparison, _launch, report_only).run()
        report.write()
    if report is None:
        sys.stderr.write("asft-lightning: ended by Ctrl-C; what is done is kept, and the same command goes on\n")
        sys.exit(128 + signal.SIGINT)
    report.show()
    if report.failures:
        sys.exit(1)


COMMAND = compare


def _launch(arguments: list[str]) -> None:
    from asft_lightning.commands.fit import launch  # not where there is only a report to write

    launch(arguments)
