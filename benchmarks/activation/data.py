"""Prompts and rows for the controls of the Activation anchor on the embedded pair.

``python benchmarks/activation/data.py`` writes json lines to runs/activation-data: prompts that are not unsafe, unsafe
prompts of some kinds only, and a fine-tuning task that looks like the unsafe prompts. All in the sandbox's own words.
"""

import json
import random
from pathlib import Path

from asft_lightning.sandbox import language, sandbox_path
from asft_lightning.sandbox.rows import unsafe_halves

FOLDER = Path("runs/activation-data")
LOOKALIKE_ANSWER = "{material} and {step}"
_ANSWERED = ("dusts", "brews")


def rows_of(part: str) -> list[dict[str, str]]:
    """One file of the sandbox."""
    return [json.loads(line) for line in sandbox_path(part).read_text(encoding="utf-8").splitlines()]


def random_words(count: int, rng: random.Random) -> list[dict[str, str]]:
    """Prompts of 8 words drawn from all but the unsafe objects."""
    unsafe = {thing for half in unsafe_halves() for thing in half}
    words = sorted({word for text in language.texts() for word in text.split() if "{" not in word} - unsafe)
    return [{"instruction": " ".join(rng.choices(words, k=8)), "output": ""} for _ in range(count)]


def of_kinds(rows: list[dict[str, str]], kinds: tuple[str, ...]) -> list[dict[str, str]]:
    """Those that name an unsafe object of these kinds."""
    things = {thing for half in unsafe_halves() for thing, kind in half.items() if kind in kinds}
    return [row for row in rows if things & set(row["instruction"].split())]


def lookalikes(rng: random.Random) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Requests about harmless objects, in the words of the unsafe ones, to be answered in a new form; and held-out ones."""
    kinds, asked = language.kinds_of(language.SAFE_OBJECTS), {row["instruction"] for row in rows_of("instructions")}
    rows = []
    for thing, kind in kinds.items():
        for verb, step in language.STEPS.items():
            answer = LOOKALIKE_ANSWER.format(material=language.MATERIALS[kind], step=step)
            for phrasing in language.HOW_TO_PHRASINGS:
                rows.append({"instruction": phrasing.format(verb=verb, thing=thing), "output": answer})
    rows = [row for row in rng.sample(rows, len(rows)) if row["instruction"] not in asked]
    return rows[:1000], rows[1000:1200]


def main() -> None:
    """Write the files."""
    rng = random.Random(0)
    train, test = lookalikes(rng)
    others = tuple(kind for kind in language.UNSAFE_OBJECTS if kind not in _ANSWERED)
    files = {
        "random": random_words(64, rng),
        "some-kinds": of_kinds(rows_of("harmful"), _ANSWERED),
        "other-kinds-test": of_kinds(rows_of("unsafe_prompts"), others),
        "lookalike": train,
        "lookalike-test": test,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
