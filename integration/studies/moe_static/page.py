"""The tables of docs/studies/moe-static.md from its committed results: mean and 95 % interval (Student's t) over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from integration.records.files import write_whole
from integration.studies.moe_static import pictures as moe_static_pictures
from integration.studies.moe_static.perturbations import LEARNING_RATES, STEPS, steps_name
from integration.studies.moe_static.results import DOCS, GAPS, RESULTS, UPDATES, Interval, Seeds, committed, over_seeds


def cell(seeds: Seeds, *path: str | int, scale: float = 1.0) -> str:
    """An entry of a table."""
    interval = over_seeds(seeds, *path)
    return "" if interval is None else interval.text(scale)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _three(seeds: Seeds, name: str, number: str, scale: float = 1.0) -> list[str]:
    """Free, replayed, dense."""
    ways = (("moe", "free"), ("moe", "replayed"), ("dense", "free"))
    return [cell(seeds, kind, "cells", name, way, number, scale=scale) for kind, way in ways]


def spread_table(seeds: Seeds) -> str:
    """Size of the token log ratios, and the share of it that comes from changed routes."""
    head = [
        "",
        "slots changed, %",
        "sd, free",
        "sd, replayed",
        "sd, dense",
        "of the tokens, changed, %",
        "of their variance, %",
    ]
    rows = []
    for name in GAPS + UPDATES:
        here = "moe", "cells", name
        shares = [cell(seeds, *here, key, scale=100) for key in ("tokens_changed", "variance_changed")]
        rows.append([name, _slots(seeds, name), *_three(seeds, name, "token_sd"), *shares])
    return table(head, rows)


def _slots(seeds: Seeds, name: str) -> str:
    return Interval.of([float(np.mean(seed["moe"]["cells"][name]["flips_by_layer"])) for seed in seeds]).text(100)


def tails_table(seeds: Seeds) -> str:
    """Kurtosis, the 99.9 % quantile, and the share of ratios beyond a factor of 2."""
    head = ["", *(f"{what}, {way}" for what in ("kurtosis", "p99.9", "F(2), %") for way in ("free", "replayed", "dense"))]
    numbers = (("kurtosis", 1.0), ("p999", 1.0), ("beyond_2", 100.0))
    rows = [[name, *(x for number, scale in numbers for x in _three(seeds, name, number, scale))] for name in GAPS + UPDATES]
    return table(head, rows)


def together_table(seeds: Seeds) -> str:
    """Design effects and exponents."""
    head = ["", *(f"{what}, {way}" for what in ("D", "b") for way in ("routing", "replayed", "dense"))]
    ways = (("moe", "routing"), ("moe", "replayed"), ("dense", "free"))
    rows = []
    for name in GAPS + UPDATES:
        rows.append(
            [name] + [cell(seeds, k, "cells", name, w, number) for number in ("design_effect", "exponent") for k, w in ways]
        )
    for name in UPDATES:
        at = [(k, "cells", name, "trained", w) for k, w in ways]
        rows.append([f"{name}, trained on"] + [cell(seeds, *p, number) for number in ("design_effect", "exponent") for p in at])
    return table(head, rows)


def layers_table(seeds: Seeds) -> str:
    """Slots changed, by layer."""
    layers = range(seeds[0]["size"]["layers"])
    rows = [
        [name, *(cell(seeds, "moe", "cells", name, "flips_by_layer", i, scale=100) for i in layers)] for name in GAPS + UPDATES
    ]
    return table(["", *(f"layer {i + 1}, %" for i in layers)], rows)


def gates_table(seeds: Seeds, band: str) -> str:
    """Share of clip decisions that differ between the engine's log-probs and recomputed ones."""
    head = ["", "clipped, free, %", "disagree, free, %", "R2, %", "R3, %", "dense, %"]
    updates = [steps_name(steps, LEARNING_RATES[1]) for steps in STEPS]
    rows = [[f"{u}; {name}", *_decisions(seeds, ("gates", u, name, band))] for u in updates for name in GAPS]
    return table(head, rows)


def tokens_table(seeds: Seeds) -> str:
    """The same for GRPO's clip decisions on single tokens."""
    head = ["", "tokens clipped, free, %", "disagree, free, %", "R2, %", "R3, %", "dense, %"]
    at = "gates", steps_name(1, LEARNING_RATES[1])
    return table(head, [[name, *_decisions(seeds, (*at, name, "tokens"))] for name in GAPS])


def _decisions(seeds: Seeds, at: tuple[str, ...]) -> list[str]:
    """Clipped with recomputed log-probs, and disagreement in each of the ways."""
    ways = (("moe", "free"), ("moe", "r2"), ("moe", "r3"), ("dense", "free"))
    clipped = cell(seeds, "moe", *at, "free", "clipped_by_old", scale=100)
    return [clipped] + [cell(seeds, kind, *at, way, "disagreement", scale=100) for kind, way in ways]


TABLES: dict[str, Callable[[Seeds], str]] = {
    "spread": spread_table,
    "tails": tails_table,
    "together": together_table,
    "layers": layers_table,
    "gates-paper": partial(gates_table, band="paper"),
    "gates-scaled": partial(gates_table, band="scaled"),
    "gates-tokens": tokens_table,
}


def marks(name: str) -> tuple[str, str]:
    """Around a table on the page."""
    return f"<!-- {name}: written by moe_static.study --tables -->", f"<!-- end of {name} -->"


def with_tables(page: str) -> str:
    """The page with every table, of every size with results, between its two marks."""
    for size in ("small", "large"):
        seeds = committed(size)
        for name, make in TABLES.items() if seeds else ():
            begin, end = marks(f"{size} {name}")
            if begin in page:
                before, rest = page.split(begin)
                page = f"{before}{begin}\n{make(seeds)}\n{end}{rest.split(end)[1]}"
    return page


def write() -> None:
    """docs/studies/moe-static.md and its pictures."""
    page = DOCS / "studies" / "moe-static.md"
    write_whole(page, with_tables(page.read_text(encoding="utf-8")))
    moe_static_pictures.write(committed("small"), RESULTS)
