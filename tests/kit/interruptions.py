"""Runs that are ended at a random moment, by a random signal or error, and go on: what becomes of them."""

import csv
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from kit import tiny
from kit.commands import write_config
from kit.forks import Forks

HOW = ("SIGINT", "SIGTERM", "SIGKILL", "error")
SAVING = {"steps": {"every_n_train_steps": 1}, "some": {"every_n_train_steps": 4}, "epochs": {"every_n_epochs": 1}}
METHODS = ("asft", "protect")
"""An anchor on the update; an audit of the rows, and answers that are held within a budget."""
OF_FIRST_RANK = ("saving", "writing", "renaming", "adapter")
TIMED = ("seconds", "per_second")
"""How the names of figures end that no two runs have alike."""
BATCHES, EPOCHS, EVERY = 5, 3, 4
"""Micro-batches an epoch; epochs; optimizer steps between two scorings."""


@dataclass(frozen=True)
class Cell:
    """One interruption.

    Args:
        how: A signal, or ``error`` for an exception.
        moment: One of ``kit.forks.MOMENTS``, and the how-manieth.
        count: Which of them; a smaller one where there are not so many.
        saving: One of ``SAVING``.
        accumulated: Micro-batches a step.
        ranks: How many.
        rank: Which one alone is ended; None for all.
        method: One of ``METHODS``.
    """

    how: str
    moment: str
    count: int
    saving: str
    accumulated: int
    ranks: int
    rank: int | None
    method: str


def cells(count, seed=41):
    """So many, on one and on two ranks; of this seed the first dozen have most moments, and a SIGTERM to one rank alone."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        how, ranks = HOW[i % len(HOW)], 1 + i // len(HOW) % 2
        # An answer that fails is no end: training goes on.
        scoring = () if how == "error" else ("scoring",)
        moments = ["training", "stepping", "reporting", *scoring, draw.choice(OF_FIRST_RANK)]
        moment = draw.choice(moments)
        rank = 0 if ranks == 1 or moment in OF_FIRST_RANK else draw.choice([None, 0, 1])
        most = 1 if moment == "adapter" else BATCHES * EPOCHS
        count, saving, accumulated = draw.randint(1, most), draw.choice(list(SAVING)), draw.choice([1, 3])
        method = METHODS[i // (2 * len(HOW)) % len(METHODS)]
        found.append(Cell(how, moment, count, saving, accumulated, ranks, rank, method))
    return found


class Interruptions:
    """Runs of a tiny model, with dropout and a falling rate, scored on the way; forks of one process."""

    def __init__(self, folder):
        self.folder, self.forks = Path(folder), Forks(Path(folder))
        self.content = yaml.safe_load(Path(write_config(self.folder, save_on_exception=True)).read_text())
        self.whole = {}

    def outcome(self, cell, within=180):
        """The cell, how its processes ended, and whether the run that went on is the one that was not interrupted."""
        expected, count = self._uninterrupted(cell), cell.count
        while True:  # the moment may not come so often
            name = f"{'-'.join(str(part) for part in asdict(cell).values())}-{count}"
            statuses = self._run(name, cell, within, [cell.moment, count, cell.how, cell.rank])
            if statuses is None or any(statuses) or count == 1:
                break
            count = (count + 1) // 2
        resumed = None if statuses is None else self._run(name, cell, within)
        hung = statuses is None or resumed is None
        adapter = self.folder / name / "adapter" / "adapter_model.safetensors"
        found = load_file(adapter) if adapter.is_file() else {}
        return asdict(cell) | {
            "count": count,
            "statuses": statuses,
            "resumed": resumed,
            "hung": hung,
            "adapter": bool(found),
            "scored": not hung and self._scores(name) == self._scores(_whole(cell)),
            "logged": not hung and self._logged(name) == self._logged(_whole(cell)),
            "same": found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected),
        }

    def close(self):
        self.forks.close()

    def _uninterrupted(self, cell):
        """Its weights; checkpoints make no difference."""
        name = _whole(cell)
        if name not in self.whole:
            assert set(self._run(name, cell, 300)) == {0}
            assert self._scores(name)["steps"].keys() == set(map(str, range(EVERY, _steps(cell) + 1, EVERY)))
            self.whole[name] = load_file(self.folder / name / "adapter" / "adapter_model.safetensors")
        return self.whole[name]

    def _scores(self, name):
        """Before, on the way and after; None of a run that has not ended."""
        summary = json.loads((self.folder / name / "summary.json").read_text())
        return summary["safety/harmful_score"] if summary["run"].get("ended") else None

    def _logged(self, name):
        """The rows of metrics.csv without what was timed, in any order."""
        with (self.folder / name / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        figures = [{name: value for name, value in row.items() if value and not name.endswith(TIMED)} for row in rows]
        return sorted(sorted(row.items()) for row in figures if row.keys() != {"step"})

    def _run(self, name, cell, within, end=None):
        """The statuses of its processes; None where it hangs."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(self._config(name, cell)))
        self.forks.begin(["fit", "--config", file, "--ckpt_path=auto"], cell.ranks, end)
        try:
            return self.forks.statuses(within)
        except AssertionError:
            self.forks.close()
            self.forks = Forks(self.folder)
            return None

    def _config(self, name, cell):
        content = json.loads(json.dumps(self.content))
        content["model"]["init_args"] |= {"lora": tiny.LORA | {"lora_dropout": 0.2}, "lr_scheduler": "linear"}
        content["data"]["init_args"] |= {"num_rows": 4 * BATCHES, "batch_size": 4 // cell.ranks}
        if cell.method == "protect":
            held = vars(tiny.unsafe_prompts(self.folder, 6, 20, "held"))
            answers = {"prompts": held, "max_new_tokens": 4, "budget": 1e-3}
            content["model"]["init_args"] |= {"anchors": [], "answers": answers}
            content["data"]["init_args"]["audit"] = {"action": "drop", "batch_size": 4}
        scorer, _, saver = content["trainer"]["callbacks"]
        scorer["init_args"] |= {"every_n_steps": EVERY, "batch_size": 1}
        saver["init_args"] |= SAVING[cell.saving]
        content["trainer"] |= {
            "max_epochs": EPOCHS, "max_steps": -1, "default_root_dir": str(self.folder / name), "devices": cell.ranks,
            "accumulate_grad_batches": cell.accumulated, "strategy": "ddp" if cell.ranks > 1 else "auto",
        }  # fmt: skip
        return content


def is_well(outcome):
    """It did not hang, its second start came to the end, and what came out is the uninterrupted run's."""
    is_same = outcome["same"] and outcome["scored"] and outcome["logged"]
    return is_same and not outcome["hung"] and not any(outcome["resumed"])


def _steps(cell):
    """Optimizer steps of the run: an epoch's last may have fewer micro-batches."""
    return EPOCHS * -(-BATCHES // cell.accumulated)


def _whole(cell):
    return f"whole-{cell.method}-{cell.accumulated}-{cell.ranks}"
