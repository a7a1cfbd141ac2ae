"""The committed results of the static study, and means over its seeds with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from integration.records.json_lines import read_rows
from integration.studies.moe_static.perturbations import LEARNING_RATES, STEPS, engines, steps_name

DOCS = Path(__file__).parents[3] / "docs"
RESULTS = DOCS / "results" / "moe-static"
FILE = "results.jsonl"
"""In a folder of results: one line per seed."""
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""97.5 % quantiles of Student's t with 1, 2, 3, … degrees of freedom; the last one also stands for more."""
GAPS = [engine.name for engine in engines("moe")]
UPDATES = [steps_name(steps, lr) for lr in LEARNING_RATES for steps in STEPS]

Seeds = Sequence[dict[str, Any]]


class Interval(NamedTuple):
    """A 95 % interval of a mean over seeds, Student's t."""

    mean: float
    half: float

    @staticmethod
    def of(values: Sequence[float]) -> Interval:
        """The interval from one value per seed; its half width is 0 for a single seed, which has none."""
        x = np.asarray(values, dtype=float)
        if len(x) < 2:
            return Interval(float(x.mean()), 0.0)
        return Interval(float(x.mean()), STUDENT[min(len(x) - 1, len(STUDENT)) - 1] * float(x.std(ddof=1)) / math.sqrt(len(x)))

    def text(self, scale: float = 1.0) -> str:
        """ "0.092 ± 0.011": the half width to two digits, the mean to as many places."""
        mean, half = scale * self.mean, scale * self.half
        if half == 0:
            return f"{mean:.3g}".replace("-", "−")
        places = max(0, 1 - math.floor(math.log10(half)))
        return f"{mean:.{places}f} ± {half:.{places}f}".replace("-", "−")


def committed(size: str) -> list[dict[str, Any]]:
    """The seeds of this size: settings and results of each, by seed."""
    rows = [row for row in read_rows(RESULTS / FILE) if row["name"].startswith(f"{size}-")]
    return sorted((row["settings"] | row["result"] for row in rows), key=lambda seed: int(seed["seed"]))


def over_seeds(seeds: Seeds, *path: str | int) -> Interval | None:
    """The mean of the number at this path; None if the dense model has no such number. KeyError for a wrong path."""

    def at(found: Any) -> Any:
        for key in path:
            if path[0] == "dense" and key not in found:
                return None
            found = found[key]
        return found

    values = [at(seed) for seed in seeds]
    return None if None in values else Interval.of(values)
