"""``asft-lightning landscape``: how far a model's weights can be moved before it is no longer safe."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from asft_lightning.callbacks import SafetyEvaluation, ScoringCallback
from asft_lightning.chat.template import Template
from asft_lightning.data import Source
from asft_lightning.errors import ConfigurationError
from asft_lightning.landscape import Aligned, Direction, Random, Report
from asft_lightning.landscape.grid import Grid, positions
from asft_lightning.landscape.kept_points import KeptPoints
from asft_lightning.landscape.landscape import Landscape
from asft_lightning.landscape.pictures import draw_curves, draw_plane, draw_surface
from asft_lightning.landscape.rays import Norm
from asft_lightning.landscape.scoring import PointScorer
from asft_lightning.landscape.share import Share
from asft_lightning.landscape.space import Space, Which
from asft_lightning.runtime.extras import require_extra
from asft_lightning.runtime.files import alone, clear_unfinished, user_path, write_json
from asft_lightning.runtime.plain_data import PlainData
from asft_lightning.runtime.tables import show
from asft_lightning.runtime.terminal import say
from asft_lightning.weights.locations import SANDBOX
from asft_lightning.weights.pretrained import Pretrained

EXAMPLES = (
    "landscape --pretrained.aligned sandbox:aligned --pretrained.base sandbox:base",
    'landscape --config my-map.yaml --plane "[aligned, harmful]" --runs "{sft: runs/sft}"',
)


def map_landscape(
    pretrained: Pretrained,
    output: str = "runs/landscape",
    safety: SafetyEvaluation | None = None,
    directions: list[Direction] | None = None,
    random: int = 5,
    beside: list[ScoringCallback] | None = None,
    loss: Source | None = None,
    norm: Norm = "frobenius",
    weights: Which = "targets",
    lora: PlainData | None = None,
    reach: float = 0.5,
    reaches: dict[str, float] | None = None,
    points: int = 21,
    plane: list[str] | None = None,
    plane_points: int = 11,
    plane_reach: float | None = None,
    orthogonal: bool = False,
    runs: dict[str, str] | None = None,
    threshold: float = 10.0,
    template: Template = Template(),  # noqa: B008 (frozen)
    device: str | None = None,
    share: str | None = None,
) -> Report | None:
    """Score a model while its weights are moved along directions, and say how far it stays safe.

    Points are kept as they come: the same command goes on where it was ended, and more points, directions or a plane are
    added to those that are there.

    Args:
        pretrained: The checkpoints; a config of models/ given with --config says them.
        output: The folder of points, figures and pictures.
        safety: The harmful score: prompts and judge, as of a run; null for refusals of the unsafe prompts in the package.
        directions: Along which: Aligned, from base to aligned, and Tuned, to a fine-tuned model; null for Aligned where a
            base model is given.
        random: How many random directions beside them, of the seeds 0, 1, …
        beside: What else to score at each point, e.g. a UtilityEvaluation.
        loss: Rows with answers, for the loss at each point.
        norm: frobenius: each matrix moves by α times its own norm; global: α is the distance; raw: directions as they are.
        weights: targets of LoRA, or all.
        lora: Arguments of peft.LoraConfig, for its target_modules; null for the paper's, q_proj and v_proj.
        reach: How far to go, the largest α; under frobenius 0.5 moves each matrix by half of its own norm.
        reaches: {direction: its own largest α}, for those along which the model changes much sooner.
        points: Points on a line, odd.
        plane: Two of the directions, by name, to map together; null for none.
        plane_points: Points on each side of the plane, odd.
        plane_reach: Its largest α; null for that of lines.
        orthogonal: Map the plane's second direction without what lies in the first.
        runs: {name: a finished run, an adapter or a model} to draw into the plane.
        threshold: τ, the highest harmful score that counts as safe, in percent.
        template: How prompts are written for the model.
        device: Where the model is, e.g. cuda; null for the accelerator if there is one.
        share: Of several processes at one map, which this one is, e.g. 1/4; the last one to end reports.

    Returns:
        What was found; None where points of other shares are missing.
    """
    require_extra("matplotlib", "a picture")
    plane_positions = positions(reach if plane_reach is None else plane_reach, plane_points)
    named = ([Aligned()] if pretrained.base else []) if directions is None else directions
    chosen = [*named, *(Random(seed) for seed in range(random))]
    labels = [direction.label for direction in chosen]
    lines = {name: positions((reaches or {}).get(name, reach), points) for name in labels}
    _check(labels, random, reaches or {}, plane, orthogonal or bool(runs), threshold)
    folder = user_path(output)
    part = Share.of(share)
    with alone(folder / part.folder):
        clear_unfinished(folder / part.folder)
        scored_by: dict[str, Any] = {"safety": safety or _refusals(pretrained), "beside": beside or [], "loss": loss}
        scorer = PointScorer(**scored_by, tokenizer=pretrained.load_tokenizer(), template=template)
        landscape = Landscape(Space.of(pretrained, weights, lora), chosen, norm, device)
        axes = None if plane is None else _axes(landscape, plane, orthogonal)
        kept = KeptPoints(folder, landscape.settings(scored_by, template), part.folder)
        grid = Grid(lines, axes, plane_positions)
        landscape.score(part.among(grid.points), scorer, kept)
        kept.read()
        if missing := [place for place in grid.points if place not in kept.scores]:
            say(f"this share is scored, and {len(set(missing))} points of others are not: the last one to end reports")
            return None
        report = landscape.report(grid, scorer, kept, threshold, runs or {})
        written = _write(report, folder)
    _show(report, written, 2 * points - 1)
    return report


COMMAND = map_landscape


def _refusals(pretrained: Pretrained) -> SafetyEvaluation:
    is_embedded = pretrained.aligned.startswith(SANDBOX)  # whose language has a few hundred words
    return SafetyEvaluation(Source("sandbox:unsafe_prompts" if is_embedded else "catalogue:unsafe-prompts-test"))


def _check(
    labels: Sequence[str],
    random: int,
    reaches: Collection[str],
    plane: Sequence[str] | None,
    needs_plane: bool,
    threshold: float,
) -> None:
    if random < 0:
        raise ConfigurationError(f"random must be 0 directions or more, got {random}. 20 tell a mean.")
    if not 0 <= threshold < 100:
        raise ConfigurationError(f"threshold must lie in 0..100 percent, below 100, got {threshold}. 10 is usual.")
    named = [label for label in labels if not label.startswith(Random.PREFIX)]  # random ones are drawn as one band
    if unknown := sorted(set(reaches) - set(named)):
        raise ConfigurationError(f"reaches are of the directions {', '.join(named)}, got {unknown[0]!r}. Name one of them.")
    if plane is None and needs_plane:
        raise ConfigurationError("orthogonal and runs are for a plane, got none. Name two directions: --plane '[a, b]'.")
    if plane is not None and (len(set(plane)) != 2 or len(plane) != 2 or not set(plane) <= set(labels)):
        raise ConfigurationError(
            f"a plane must be two of the directions {', '.join(labels)}, got {', '.join(plane)}. Name two of them."
        )


def _axes(landscape: Landscape, plane: Sequence[str], orthogonal: bool) -> tuple[str, str]:
    first, second = plane
    return first, landscape.make_orthogonal(second, first) if orthogonal else second


def _write(report: Report, folder: Path) -> list[Path]:
    """All files but the points; those for a person to look at."""
    write_json(folder / "landscape.json", report.plain())
    pictures = draw_curves(report, folder)
    if report.plane is not None:
        pictures += draw_plane(report.plane, report, folder) + draw_surface(report.plane, report, folder)
    return [folder / "landscape.json", *(picture for picture in pictures if picture.suffix == ".png")]


def _show(report: Report, written: Sequence[Path], finer: int) -> None:
    show(report.table())
    say(*report.lines(), "", *(f"written to {path}" for path in written))
    names = [curve.name for curve in report.curves][:2]
    if report.plane is None and len(names) == 2:
        say(f'for a map of two directions add to the command: --plane "[{", ".join(names)}]"')
    else:
        say(f"for finer lines add to the command: --points {finer}; what is scored is kept")
