"""Report: the results as JSON, CSV, pictures, one HTML page, and a table in the terminal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asft_lightning.comparison.agreement import Agreement, agreements
from asft_lightning.comparison.conclusion import conclusion, contenders
from asft_lightning.comparison.examples import examples
from asft_lightning.comparison.headline import Headline, front, headlines
from asft_lightning.comparison.page import data_uri, render, run_links
from asft_lightning.comparison.pairs import Pair, paired
from asft_lightning.comparison.pictures import over_steps, pareto
from asft_lightning.comparison.results import COSTS, Cell, Result, cells, flat, over_settings
from asft_lightning.comparison.runner import Failure
from asft_lightning.comparison.series import axes_but_poison, by_poison, poison_title, setting, variant
from asft_lightning.comparison.spec import Comparison
from asft_lightning.comparison.tables import Table, agreement_table, headline_table, pairs_table, published_table
from asft_lightning.comparison.tuning import Choice, tuning_record
from asft_lightning.comparison.update_picture import draw_update_parts
from asft_lightning.runtime.csv_text import as_csv
from asft_lightning.runtime.files import write_atomically, write_json
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.runtime.terminal import say

COLUMNS = {
    "harmful_score": "HS (%)",
    "accuracy": "FA (%)",
    "over_refusal": "over-refusal (%)",
    "incoherent": "noise (%)",
    "training_seconds": "time (s)",
    "peak_memory_mib": "memory (MiB)",
}
_MARGIN = 2.0
"""Points of FA that a method may lose and still keep the task, where no tuning says."""
PICTURES = {
    "overall.png": "HS against FA, mean over all settings, with the standard deviation of that mean over seeds.",
    "pareto.png": "HS against FA, mean and standard deviation over seeds; points of one line differ in one axis.",
    "pareto-tuning.png": "The same of the tuning runs, on seeds that are not reported.",
    "steps.png": "HS while training.",
    "update.png": "The update by layer: its size, and its aligned and orthogonal parts.",
}


@dataclass(frozen=True)
class Report:
    """All that a comparison found.

    Args:
        comparison: What was compared.
        results: The reported runs that ended.
        trials: The tuning runs that ended.
        choices: What was chosen for each tuned method.
        failures: The runs that failed.
        missing: Names of reported runs that have not ended.
        attacked: The reported runs of what an attacker's search found that ended.
        searches: What that was for each method.
    """

    comparison: Comparison
    results: Sequence[Result]
    trials: Sequence[Result]
    choices: Sequence[Choice]
    failures: Sequence[Failure]
    missing: Sequence[str]
    attacked: Sequence[Result] = ()
    searches: Sequence[Choice] = ()

    @property
    def cells(self) -> list[Cell]:
        """The lines of the table: by poison ratio, then in the order of the methods."""
        order = list(self.comparison.methods)
        ordered_cells = sorted(cells(self.results), key=lambda cell: order.index(cell.method))
        return [cell for cells_of_ratio in by_poison(ordered_cells).values() for cell in cells_of_ratio]

    @property
    def overall(self) -> list[Cell]:
        """Each method's mean over all settings, in the order of the methods."""
        order = list(self.comparison.methods)
        return sorted(over_settings(self.results, self.comparison.axes), key=lambda cell: order.index(cell.method))

    @property
    def sections(self) -> list[tuple[str, list[Cell]]]:
        """The tables with their headings: one a poison ratio, and what they come to."""
        apart = [(poison_title(ratio), cells_of_ratio) for ratio, cells_of_ratio in by_poison(self.cells).items()]
        return [*apart, *([("mean over all settings", self.overall)] if self.overall else [])]

    @property
    def headlines(self) -> list[Headline]:
        """Each defence over all attacks, in the order of the methods; nothing where none met several."""
        order = list(self.comparison.methods)
        ordered = sorted(self.results, key=lambda result: order.index(result.method))
        search = self.comparison.search
        found = headlines(ordered, self.comparison.axes, self.attacked, search.tries if search else ())
        return found if any(headline.attacks > 1 or headline.searched or headline.beyond for headline in found) else []

    @property
    def conclusion(self) -> str:
        """What all of it comes to, in a sentence."""
        tuning = self.comparison.tuning
        judged = contenders(self.headlines, self.overall or self.cells)
        return conclusion(judged, _MARGIN if tuning is None else tuning.margin)

    @property
    def against(self) -> str:
        """The method that the others are held against: the recommended one, or else the first."""
        return self.comparison.default_method or next(iter(self.comparison.methods))

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each other method beside it."""
        return paired(self.cells, self.against, list(self.comparison.axes))

    @property
    def agreements(self) -> list[Agreement]:
        """Of judges, where there are several."""
        return agreements(self.results)

    def _beside(self) -> tuple[list[Table], list[Table]]:
        """What stands before the main tables, and after them; only what has something to show."""
        before = [headline_table(self.headlines), published_table(self.overall, self.comparison.published, COLUMNS)]
        after = [pairs_table(self.pairs, self.against), agreement_table(self.agreements)]
        return [table for table in before if table.rows], [table for table in after if table.rows]

    @property
    def page(self) -> Path:
        """The file to look at."""
        return self.comparison.folder / "report.html"

    def write(self) -> Path:
        """Write everything into the comparison's folder; returns the page."""
        folder = self.comparison.folder
        write_json(folder / "results.json", self.record())
        write_atomically(folder / "runs.csv", as_csv([result.flat() for result in self.results]))
        write_atomically(folder / "table.csv", as_csv([flat(cell.record()) for cell in self.cells]))
        page = self.page
        write_atomically(page, self._html(folder, self._draw(folder)))
        return page

    def _draw(self, folder: Path) -> list[str]:
        """The names of the pictures that there was something to draw in."""
        from matplotlib import rc_context  # an optional extra

        with rc_context({"text.parse_math": False}):  # a dollar in a name is no mathematics
            drawn = {
                "overall.png": pareto(self.overall, folder / "overall.png", "HS against FA, mean over all settings"),
                "pareto.png": pareto(self.cells, folder / "pareto.png", "HS against FA"),
                "pareto-tuning.png": pareto(cells(self.trials), folder / "pareto-tuning.png", "HS against FA, tuning runs"),
                "steps.png": over_steps(self.cells, folder / "steps.png"),
                "update.png": draw_update_parts(self.cells, folder / "update.png"),
            }
        return [name for name, is_drawn in drawn.items() if is_drawn]

    def record(self) -> dict[str, Any]:
        """As JSON has it; scores in percent, means over seeds with the sample standard deviation."""
        return {
            "runs": [result.record() for result in self.results],
            "conclusion": self.conclusion,
            "default_method": self.comparison.default_method,
            "table": [cell.record() for cell in self.cells],
            "overall": [cell.record() for cell in self.overall],
            "headline": [headline.record() for headline in self.headlines],
            "front": [{"method": headline.method, **headline.axes} for headline in front(self.headlines)],
            "pairs": [pair.record() for pair in self.pairs],
            "agreement": [agreement.record() for agreement in self.agreements],
            "attacked": [result.record() for result in self.attacked],
            **self._chosen(),
            "failures": [asdict(failure) for failure in self.failures],
            "missing": list(self.missing),
            "comparison": asdict(self.comparison),
        }

    def _chosen(self) -> dict[str, dict[str, Any] | None]:
        """What was chosen by tuning and by an attacker's search, and how."""
        tuning, search = self.comparison.tuning, self.comparison.search
        return {
            "tuning": None if tuning is None else tuning_record(tuning, self.choices),
            "search": None if search is None else tuning_record(search, self.searches),
        }

    def show(self) -> None:
        """Print the table, what failed, and where everything is."""
        columns = self._columns()
        headings = ["method", "n", *(COLUMNS[name] for name in columns)]
        for heading, cells_shown in self.sections:
            rows = [
                [self._marked(cell.method, variant(cell, cells_shown)), str(cell.seeds), *(_shown(cell, c) for c in columns)]
                for cell in cells_shown
            ]
            show(Sheet(headings, rows, f"{heading or 'all'}: mean ± standard deviation over n seeds"))
        headline, others = self._beside()
        for table in (*others, *headline[::-1]):  # the headline last, where one looks first
            if not table.is_long:
                show(Sheet(table.headings, table.rows, table.title))
        for done, choice in [*(("tuned", c) for c in self.choices), *(("searched", c) for c in self.searches)]:
            chosen = None if choice.setting is None else ", ".join(setting(*axis) for axis in choice.setting.items())
            say(f"{done}: {choice.method}: {chosen or 'nothing yet'}")
        for failure in self.failures:
            say(f"failed: {failure.run}: {failure.reason}", f"  {failure.log}")
        if self.missing:
            say(f"{len(self.missing)} reported runs are missing; the same command runs them")
        say(self.conclusion, f"written to {self.comparison.folder}; to look at it open {self.page}")

    def _line(self, cell: Cell, columns: Sequence[str]) -> dict[str, Any]:
        figures = [(spread.mean if (spread := cell.spread(name)) else None, _shown(cell, name)) for name in columns]
        method = self._marked(cell.method, cell.method)
        links = run_links(cell, self.comparison.folder)
        setting = axes_but_poison(cell.axes)
        return {"method": method, "setting": setting, "seeds": cell.seeds, "links": links, "figures": figures}

    def _marked(self, method: str, text: str) -> str:
        return f"{text} (default)" if method == self.comparison.default_method else text

    def _columns(self) -> list[str]:
        return [name for name in COLUMNS if any(cell.spread(name) for cell in self.cells)]

    def _html(self, folder: Path, pictures: Sequence[str]) -> str:
        columns = self._columns()
        headline, tables = self._beside()
        return render(
            conclusion=self.conclusion,
            title=self.comparison.folder.name,
            columns=[COLUMNS[name] for name in columns],
            sections=[
                (heading, [self._line(cell, columns) for cell in cells_shown]) for heading, cells_shown in self.sections
            ],
            headline=headline,
            tables=tables,
            pictures=[(PICTURES[name], data_uri(folder / name)) for name in pictures],
            examples=examples(self.cells),
            chosen={name: chosen for name, chosen in self._chosen().items() if chosen and chosen["methods"]},
            failures=self.failures,
            missing=len(self.missing),
            runs=len(self.results),
        )


def _shown(cell: Cell, name: str) -> str:
    spread = cell.spread(name)
    return "–" if spread is None else f"{spread.mean:.0f}" if name in COSTS else str(spread)
