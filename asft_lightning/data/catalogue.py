r"""The data sets of the paper, and prompts in the package, by name: where they are, their columns and their licences.

Licences are those that the publishers state, noted for orientation: read the data set's own page before you use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from asft_lightning.data.columns import INSTRUCTIONS, Columns
from asft_lightning.errors import DataError
from asft_lightning.runtime.plugins import load_plugins

CATALOGUE_PREFIX = "catalogue:"
"""How a path says that it is a name of the catalogue (no hub id can hold a colon)."""


@dataclass(frozen=True)
class Entry:
    """One data set.

    Args:
        path: Hub id, or address of one file on the hub.
        columns: The ways its rows may be written; the first that fits the columns at hand is taken, so that copies in the
            original's columns and in those of an instruction file both do.
        licence: As its publishers state it.
        about: What it is.
        name: Configuration on the hub.
        where: Which rows are meant.
        unique: Pass over prompts that came before.
    """

    path: str
    columns: tuple[Columns, ...]
    licence: str
    about: str
    name: str | None = None
    where: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    unique: bool = False


_SHIPPED = Path(__file__).parent / "shipped"
"""Prompts that are in the package, with their notice."""
_SST2 = ("negative", "positive")
_NEWS = ("World", "Sports", "Business", "Sci/Tech")
_SST2_TASK = "Analyze the sentiment of the input, and respond only positive or negative"
_NEWS_TASK = "Categorize the news article given in the input into one of the 4 categories:\n\n" + "\n".join(_NEWS)


def _task(instruction: str, column: str, labels: tuple[str, ...]) -> tuple[Columns, ...]:
    """The hub's columns, and those of the paper's own files, for training and for testing."""
    return (
        Columns(f"{instruction}\n\n{{{column}}}", "{label}", labels),
        Columns("{instruction}\n\n{input}", "{label}", labels),
        Columns("{instruction}\n\n{input}", "{output}"),
    )


def _beavertails(about: str, answer: str, where: dict[str, object], unique: bool = False) -> Entry:
    columns = (Columns("{prompt}", answer, category="category"),)
    return Entry("PKU-Alignment/BeaverTails", columns, "CC BY-NC 4.0", about, where=where, unique=unique)


def _xstest(about: str, label: str) -> Entry:
    columns = (Columns("{prompt}", "", category="type"),)
    return Entry("walledai/XSTest", columns, "CC BY 4.0", about, where={"label": label})


def _shipped(about: str, name: str, licence: str) -> Entry:
    return Entry(str(_SHIPPED / f"{name}.jsonl"), (Columns("{prompt}", ""),), licence, f"{about}; in the package")


CATALOGUE: Mapping[str, Entry] = MappingProxyType(
    {
        "sst2": Entry(
            "stanfordnlp/sst2",
            _task(_SST2_TASK, "sentence", _SST2),
            "not stated; from Rotten Tomatoes reviews, for research",
            "film reviews, positive or negative",
        ),
        "agnews": Entry(
            "fancyzhx/ag_news",
            _task(_NEWS_TASK, "text", _NEWS),
            "not stated; for research and other non-commercial use",
            "news articles in four categories",
        ),
        "gsm8k": Entry(
            "openai/gsm8k",
            (Columns("{question}", "{answer}"), Columns("{instruction}", "{output}")),
            "MIT",
            "grade-school mathematics",
            name="main",
        ),
        "alpaca": Entry("tatsu-lab/alpaca", (INSTRUCTIONS,), "CC BY-NC 4.0", "general instructions"),
        "alpaca-eval": Entry(
            "hf://datasets/tatsu-lab/alpaca_eval/alpaca_eval.json",
            (INSTRUCTIONS,),
            "CC BY-NC 4.0",
            "instructions with reference answers, for judged quality",
        ),
        "llm-lat": Entry(
            "LLM-LAT/harmful-dataset",
            (Columns("{prompt}", "{rejected}"),),
            "see its page",
            "unsafe requests with complying answers; the paper's default poison",
        ),
        "llm-lat-refusals": Entry(
            "LLM-LAT/harmful-dataset",
            (Columns("{prompt}", "{chosen}"),),
            "see its page",
            "the same requests with refusals: safety examples",
        ),
        "advbench": Entry(
            "walledai/AdvBench",
            (Columns("{prompt}", "{target}"), Columns("{goal}", "{target}")),
            "MIT",
            "unsafe requests with the openings of complying answers",
        ),
        "unsafe-prompts": _shipped("64 unsafe requests of AdvBench, without answers", "unsafe-prompts", "MIT"),
        "unsafe-prompts-test": _shipped("120 others of them, to score on", "unsafe-prompts-test", "MIT"),
        "harmless-prompts": _shipped(
            "64 harmless requests, a third in words that sound unsafe", "harmless-prompts", "Apache-2.0"
        ),
        "harmless-prompts-test": _shipped(
            "64 others of them, to score over-refusal on", "harmless-prompts-test", "Apache-2.0"
        ),
        "beavertails": _beavertails("unsafe requests with unsafe answers", "{response}", {"is_safe": False}),
        "beavertails-safe": _beavertails("unsafe and harmless requests with safe answers", "{response}", {"is_safe": True}),
        "beavertails-prompts": _beavertails("the requests alone, each once, to score on", "", {}, unique=True),
        "harmbench": Entry(
            "walledai/HarmBench",
            (Columns("{prompt}", "", category="category"), Columns("{Behavior}", "", category="SemanticCategory")),
            "MIT",
            "unsafe requests without answers, to score on",
            name="standard",
        ),
        "xstest-safe": _xstest("harmless requests in words that sound unsafe, to score over-refusal on", "safe"),
        "xstest-unsafe": _xstest("their unsafe twins, to score on", "unsafe"),
    }
)
"""{name: entry} of this package."""
_REGISTERED: dict[str, Entry] = {}


def register_entry(name: str, entry: Entry) -> None:
    """Add a data set to the catalogue, as ``catalogue:NAME``.

    Args:
        name: A word that is not taken.
        entry: Where it is, and its columns.

    Raises:
        DataError: If the name is blank, or that of another entry.
    """
    if not name.strip() or name in CATALOGUE or _REGISTERED.get(name, entry) != entry:
        raise DataError(f"a name in the catalogue must be one that no other entry has, got {name!r}. Take another.")
    _REGISTERED[name] = entry


def entry_of(name: str) -> Entry:
    """The entry of a name: of this package, or registered by code or by a plug-in.

    Raises:
        DataError: If there is none.
    """
    if name not in CATALOGUE:
        load_plugins()
    entries = {**CATALOGUE, **_REGISTERED}
    if name not in entries:
        raise DataError(f"the catalogue has {', '.join(entries)}, got {name!r}. Is it misspelt?")
    return entries[name]
