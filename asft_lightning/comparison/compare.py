"""Compare: methods side by side, from one file to one report."""

from collections.abc import Sequence

from asft_lightning.comparison.claims import Claims
from asft_lightning.comparison.plan import Plan, Run
from asft_lightning.comparison.report import Report
from asft_lightning.comparison.results import Result, read_result
from asft_lightning.comparison.run_process import Launch
from asft_lightning.comparison.runner import Runner, RunsBar, failure_of_summary, is_done
from asft_lightning.comparison.spec import SEED, Comparison
from asft_lightning.comparison.tuning import Choice, choose


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
        total = len({run.name for run in self._all_trials()}) + sum(len(self._reported(name)) for name in comparison.methods)
        total += len(self._firsts())
        self.progress = RunsBar(total=total, desc="Runs", unit="run", smoothing=0, disable=report_only)
        self.runner = Runner(launch, Claims(self.plan.folder), comparison.jobs, comparison.threads, self.progress)

    def run(self) -> Report:
        """First steps, then tuning, then what is reported; each phase needs the one before."""
        with self.progress:
            self._run(self._firsts())
            self._run(self._all_trials())
            choices = [self._choice(name) for name in self.tuned]
            chosen = {choice.method: choice.setting for choice in choices}
            runs = [
                run
                for name in self.comparison.methods
                if (setting := chosen.get(name, {})) is not None
                for run in self.plan.reported(name, setting)
            ]
            seeds = [*self.comparison.axes[SEED], *(run.axes[SEED] for run in runs)]  # `around` may have others
            self._run(sorted(runs, key=lambda run: seeds.index(run.axes[SEED])))
        trials = [result for run in self._all_trials() for result in _finished([run])]
        missing = [run.name for run in runs if not is_done(run)]
        every = {run.name: run for run in [*self._firsts(), *self._all_trials(), *runs]}
        left = {name: run for name, run in every.items() if not is_done(run)}
        noted = (self.runner.failures.get(name) or failure_of_summary(run) for name, run in left.items())
        failures = [failure for failure in noted if failure is not None]
        return Report(self.comparison, _finished(runs), trials, choices, failures, missing)

    def _run(self, runs: Sequence[Run]) -> None:
        if not self.report_only:
            self.runner.run(runs)

    def _choice(self, name: str) -> Choice:
        assert self.comparison.tuning is not None
        results = [_finished(runs) for runs in self.trials[name]]
        return choose(name, self.tuned[name], results, self.comparison.tuning.margin)

    def _all_trials(self) -> list[Run]:
        return [run for runs_by_setting in self.trials.values() for runs in runs_by_setting for run in runs]

    def _reported(self, name: str) -> list[Run]:
        """As many as there will be; which setting they have, tuning says."""
        return self.plan.reported(name, self.tuned[name][0] if name in self.tuned else {})

    def _firsts(self) -> list[Run]:
        every = [*self._all_trials(), *(run for name in self.comparison.methods for run in self._reported(name))]
        return list({run.first.name: run.first for run in every if run.first is not None}.values())


def _finished(runs: Sequence[Run]) -> list[Result]:
    return [read_result(run) for run in runs if is_done(run)]
