"""``asft-lightning wise``: WISE's score of a folder of images, by a vision model behind a server."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from asft_lightning.evaluation import Endpoint
from asft_lightning.evaluation.wise import KeptReplies, WiseRater, WiseRecord, WiseReport, find_images, read_records
from asft_lightning.runtime.csv_text import as_csv
from asft_lightning.runtime.extras import is_installed
from asft_lightning.runtime.files import alone, user_path, write_atomically, write_json
from asft_lightning.runtime.tables import Sheet, show
from asft_lightning.runtime.terminal import say

EXAMPLES = (
    "wise data/legacy my-images --endpoint.url http://localhost:8000/v1 --endpoint.model Qwen2.5-VL-7B-Instruct",
    "wise data/verified my-images --version verified --endpoint.url https://api.openai.com/v1 --endpoint.model gpt-4o",
)

_SHOWN = 5


def wise(
    data: str,
    images: str,
    endpoint: Endpoint,
    version: Literal["legacy", "verified"] = "legacy",
    instructions: str | None = None,
    output: str = "runs/wise",
) -> None:
    """Rate images by WISE: each is shown to a vision model with its prompt's explanation, and scored from 0 to 1.

    Replies are kept as they come. The same line again goes on where it was ended, and asks nothing twice.

    Args:
        data: The benchmark's records: a JSON file, a folder of them, or a pattern such as 'wise/legacy-*.json'.
        images: The folder of the images, each named by its prompt's id: 1.png, 2.jpg, …
        endpoint: The server and the vision model's name there; its key stands in the environment, see api_key_env.
        version: ``legacy`` rates three axes from 0 to 2; ``verified``, with prompts of its own, says correct or not.
        instructions: File with the rater's instructions, with {prompt} and {explanation}; null for the package's own.
        output: The folder for the replies, scores as JSON and CSV, and a picture.
    """
    records = read_records(data, version)
    found = find_images(images, [record.id for record in records])
    rater, folder = WiseRater(endpoint, version, instructions), user_path(output)
    with alone(folder):
        report = WiseReport.of(version, records, rater.rate(records, found, KeptReplies(folder / "replies.jsonl")))
        _write(report, records, folder, title=f"WISE {version}, {user_path(images).resolve().name}, by {endpoint.model}")
    show(Sheet(("field", "WiScore", "95 %", "rated"), report.table()))
    _say_what_lacks(report, [record.id for record in records], found)
    say(f"written to {folder}: scores.json, scores.csv, images.csv, replies.jsonl{_picture(folder)}")


COMMAND = wise


def _write(report: WiseReport, records: Sequence[WiseRecord], folder: Path, title: str) -> None:
    write_json(folder / "scores.json", report.plain())
    write_atomically(folder / "scores.csv", as_csv(report.rows_of_groups()))
    write_atomically(folder / "images.csv", as_csv(report.rows_of_images(records)))
    if is_installed("matplotlib"):
        from asft_lightning.evaluation.wise.picture import draw_report

        draw_report(report, folder / "scores.png", title)


def _picture(folder: Path) -> str:
    return ", scores.png" if (folder / "scores.png").is_file() else '; for a picture: pip install "asft-lightning[plot]"'


def _say_what_lacks(report: WiseReport, ids: Sequence[int], found: Collection[int]) -> None:
    absent = [i for i in ids if i not in found]
    if absent:
        say(f"no image of {len(absent)} of {len(ids)} prompts: {_some(absent)}")
    if report.unrated:
        first, problem = next(iter(report.unrated.items()))
        say(f"no rating of {len(report.unrated)} images: {_some(list(report.unrated))}; {first}: {problem}")
        say("the same line again asks for those that the server did not answer; images.csv has the reasons")
    if report.overall is None:
        say("there is an overall score only where all of the benchmark is rated")


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:_SHOWN])) + (", …" if len(ids) > _SHOWN else "")
