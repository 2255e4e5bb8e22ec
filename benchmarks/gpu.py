"""Every check and every figure that needs a GPU: one command, a table, and a JSON file.

    python benchmarks/gpu.py --model models/smollm2 --json docs/results/speed-gpu.json

Needs this repository, its packages and the folder of a small chat model; no network. A check (benchmarks/gpu_checks.py) or
a part of benchmarks/speed runs in a process of its own with a time limit, so that one that fails or hangs hides no other.
On one GPU all of it is meant to take less than five minutes. ``--device cpu`` is for trying the script: it makes the checks
on the sandbox's model, in a few minutes, and leaves out the figures, which would take half an hour.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from gpu_checks import CHECKS, SANDBOX
from tqdm import tqdm

from asft_lightning import Source
from asft_lightning.runtime.files import write_json

HERE = Path(__file__).parent
PARTS = ("penalty", "training", "activation", "generation")
"""Of benchmarks/speed; its other parts measure the host."""
_PROMPTS = ("harmless-prompts", "harmless-prompts-test", "unsafe-prompts", "unsafe-prompts-test")

Found = dict[str, object]


def main() -> int:
    """Run what is asked for, print the table, write the file; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SANDBOX, help="a chat model's folder; figures need one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--only", nargs="+", choices=[*CHECKS, *PARTS], help="some checks or figures alone")
    parser.add_argument("--timeout", type=float, default=150, help="seconds a check or a part may take")
    parser.add_argument("--jobs", type=int, default=4, help="checks at once; figures are always measured alone")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    has_figures = options.device == "cuda" and options.model != SANDBOX
    names = options.only or [*CHECKS, *(PARTS if has_figures else ())]
    results: dict[str, Found] = {}
    with tqdm(total=len(names), desc="Checks") as bar:
        for at_once in ([name for name in names if name in CHECKS], *([name] for name in names if name in PARTS)):
            # Checks may run beside each other, and timings may not.
            with ThreadPoolExecutor(options.jobs) as pool:
                run = partial(_timed, device=options.device, model=options.model, timeout=options.timeout)
                for name, found in zip(at_once, pool.map(run, at_once), strict=True):
                    results[name] = found
                    bar.update()
    print("\n".join(_line(name, found) for name, found in results.items()))
    if not has_figures and not options.only:
        print("The figures were left out: they need a GPU and --model.")
    if options.json:
        content = {"machine": _machine(options.device), "checks": results}
        write_json(options.json, content)
    return int(any(found["outcome"] == "failed" for found in results.values()))


def _timed(name: str, device: str, model: str, timeout: float) -> Found:
    """What a check or a part found, with the seconds that it took from its process's start to its end."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "gpu_checks.py"), name, device, model, folder]
        if name in PARTS:
            command = _figures_command(name, device, model, Path(folder))
        found = _run(command, timeout)
        figures = Path(folder, "figures.json")
        if name in PARTS and figures.is_file():
            found["figures"] = json.loads(figures.read_text(encoding="utf-8"))["figures"]
    return {**found, "seconds": round(time.perf_counter() - begin, 1)}


def _run(command: Sequence[str], timeout: float) -> Found:
    """The outcome that a process tells in its last line; that of one that tells none by how it ended."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "failed", "why": f"took more than {timeout:g} s"}
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["no word"])[-1]
        return {"outcome": "failed", "why": f"ended with status {ended.returncode}: {said}"}
    return dict(json.loads(last)) if last.startswith("{") else {"outcome": "passed"}


def _figures_command(part: str, device: str, model: str, folder: Path) -> list[str]:
    """A part of benchmarks/speed on prompts of the package, each with a short answer."""
    asked = [row.prompt for name in _PROMPTS for row in Source(f"catalogue:{name}").iterate()]
    rows = [{"instruction": prompt, "input": "", "output": f"This is answer {i}."} for i, prompt in enumerate(asked)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    inputs = ["--model", model, "--rows", str(folder / "rows.json"), "--json", str(folder / "figures.json")]
    return [sys.executable, str(HERE / "speed"), "--only", part, "--device", device, "--repeats", "3", *inputs]


def _line(name: str, found: Mapping[str, object]) -> str:
    """A row of the table."""
    told = {key: value for key, value in found.items() if key not in ("outcome", "seconds", "figures", "why")}
    notes = [str(found["why"])] if "why" in found else [f"{key} {_short(value)}" for key, value in told.items()]
    notes += list(_ratios(found.get("figures", ())))
    return f"| {name:<10} | {found['outcome']:<8} | {found['seconds']:>6} s | {'; '.join(notes)} |"


def _ratios(figures: object) -> Iterator[str]:
    for figure in figures if isinstance(figures, list) else ():
        yield f"{figure['what']}: {figure['ratio']:.2f} × beside {figure['rival']}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _machine(device: str) -> dict[str, object]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
