"""A map's points, scored one after the other and kept as they come."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tqdm.auto import tqdm

from asft_lightning.landscape.grid import Point
from asft_lightning.landscape.kept_points import KeptPoints, Scores
from asft_lightning.landscape.perturbation import Perturbation
from asft_lightning.landscape.rays import Ray


def score_points(
    model: Any,
    perturbation: Perturbation,
    rays: Mapping[str, Ray],
    points: Iterable[Point],
    score: Callable[[Any], Scores],
    kept: KeptPoints,
) -> None:
    """Score the points that are not kept yet; each is kept before the next one begins.

    Args:
        model: The model, which is as it was afterwards.
        perturbation: What moves its weights.
        rays: {name: ray}.
        points: Where.
        score: What measures the model.
        kept: Where points are kept.
    """
    every = list(dict.fromkeys(points))
    missing = [place for place in every if place not in kept.scores]
    done = len(every) - len(missing)
    with tqdm(total=len(every), initial=done, desc="Points", unit="point", smoothing=0, disable=not missing) as bar:
        for place in missing:
            begin = time.perf_counter()
            with perturbation.at({rays[name]: alpha for name, alpha in place}):
                scores = score(model)
            kept.add(place, scores, time.perf_counter() - begin)
            bar.update()
