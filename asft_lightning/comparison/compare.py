"""Compare: methods side by side, from one file to one report."""

from collections.abc import Mapping, Sequence
from typing import Any

from asft_lightning.comparison.claims import Claims
from asft_lightning.comparison.plan import Plan, Run
from asft_lightning.comparison.report import Report
from asft_lightning.comparison.results import Result, is_done, read_result
from asft_lightning.comparison.run_process import Launch
from asft_lightning.comparison.runner import Failure, Runner, RunsBar, failure_of_summary, with_needs
from asft_lightning.comparison.spec import SEED, Comparison
from asft_lightning.comparison.tuning import Choice, choose

_Setting = Mapping[str, Any]


class Compare:
    """One comparison, from its runs to its report.

    Args:
        comparison: What to compare.
        launch: What runs ``asft-lightning`` on arguments: ``asft_lightning.commands.fit.launch``.
        report_only: Run nothing; report what there is.
    """

    def __init__(self, comparison: Comparison, launch: Launch, report_only: bool = False) -> None:
        self.comparison = comparison
        self.report_only = report_only
        self.plan = Plan(comparison)
        self.tuned = {name: self.plan.candidates(name) for name, method in comparison.methods.items() if method.tune}
        self.trials = {
            name: [self.plan.tuning(name, setting) for setting in settings] for name, settings in self.tuned.items()
        }
        total = len(with_needs([*_flat(self.trials), *self._after_tuning()]))
        self.progress = RunsBar(total=total, desc="Runs", unit="run", smoothing=0, disable=report_only)
        self.runner = Runner(launch, Claims(self.plan.folder), comparison.jobs, comparison.threads, self.progress)

    def run(self) -> Report:
        """Tuning, then an attacker's search, then what is reported; each phase needs the one before."""
        with self.progress:
            self._run(_flat(self.trials))
            choices = [self._choice(name) for name in self.tuned]
            chosen: dict[str, _Setting] = {name: {} for name in self.comparison.methods if name not in self.tuned}
            chosen |= {choice.method: choice.setting for choice in choices if choice.setting is not None}
            attempts = {name: self._attempts(name, setting) for name, setting in chosen.items()}
            self._run(_flat(attempts))
            searches = self._searches(attempts)
            attacked = [run for found in searches for run in self._kept(found, chosen[found.method])]
            reported = [run for name, setting in chosen.items() for run in self.plan.reported(name, setting)]
            runs = [*reported, *attacked]
            seeds = [*self.comparison.axes[SEED], *(run.axes[SEED] for run in runs)]  # `around` may have others
            self._run(sorted(runs, key=lambda run: seeds.index(run.axes[SEED])))
        failures = self._failures(with_needs([*_flat(self.trials), *_flat(attempts), *runs]))
        missing = [run.name for run in runs if not is_done(run)]
        trials = [result for run in _flat(self.trials) for result in _finished([run])]
        return Report(
            self.comparison, _finished(reported), trials, choices, failures, missing, _finished(attacked), searches
        )

    def _run(self, runs: Sequence[Run]) -> None:
        if not self.report_only:
            self.runner.run(runs)

    def _choice(self, name: str) -> Choice:
        assert self.comparison.tuning is not None
        results = [_finished(runs) for runs in self.trials[name]]
        return choose(name, self.tuned[name], results, self.comparison.tuning.margin)

    def _attempts(self, name: str, tuned: _Setting) -> list[list[Run]]:
        """The runs of each setting that an attacker tries on a method."""
        search = self.comparison.search
        return [self.plan.searching(name, {**tuned, **attempt}) for attempt in search.attempts] if search else []

    def _searches(self, attempts: Mapping[str, Sequence[Sequence[Run]]]) -> list[Choice]:
        """What the attacker keeps of each method; nothing where plain fine-tuning's FA is not known."""
        search = self.comparison.search
        if search is None or search.reference not in attempts:
            return []
        results = {name: [_finished(runs) for runs in of_method] for name, of_method in attempts.items()}
        best = choose(search.reference, search.attempts, results[search.reference], search.margin).best_accuracy
        if best is None:
            return []
        return [choose(name, search.attempts, of, search.margin, attacks=True, best=best) for name, of in results.items()]

    def _kept(self, found: Choice, tuned: _Setting) -> list[Run]:
        """The reported runs of the setting that an attacker kept."""
        return [] if found.setting is None else self.plan.searching(found.method, {**tuned, **found.setting}, reported=True)

    def _after_tuning(self) -> list[Run]:
        """As many as there will be, or nearly; which settings they have, tuning and search say."""
        runs: list[Run] = []
        for name in self.comparison.methods:
            tuned = self.tuned[name][0] if name in self.tuned else {}
            runs += self.plan.reported(name, tuned)
            runs += [run for of_attempt in self._attempts(name, tuned) for run in of_attempt]
            if search := self.comparison.search:
                runs += self.plan.searching(name, {**tuned, **search.attempts[0]}, reported=True)
        return runs

    def _failures(self, runs: Sequence[Run]) -> list[Failure]:
        """In the plan's order, whichever process noted them."""
        left = {run.name: run for run in runs if not is_done(run)}
        noted = (self.runner.failures.get(name) or failure_of_summary(run) for name, run in left.items())
        return [failure for failure in noted if failure is not None]


def _flat(runs: Mapping[str, Sequence[Sequence[Run]]]) -> list[Run]:
    return [run for of_method in runs.values() for of_setting in of_method for run in of_setting]


def _finished(runs: Sequence[Run]) -> list[Result]:
    return [read_result(run) for run in runs if is_done(run)]
