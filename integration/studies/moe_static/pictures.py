"""The pictures of the static study: means over seeds, with bars for 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gspo_plots.style import (
    BLACK,
    BLUE,
    GREY,
    HATCHES,
    LEGEND,
    ORANGE,
    REFERENCE,
    SERIES,
    VERMILION,
    finish,
    plain_log,
    plain_numbers,
)
from matplotlib.figure import Figure

from integration.records.files import write_picture
from integration.studies.moe_static.measures import LENGTHS
from integration.studies.moe_static.perturbations import LEARNING_RATES, steps_name
from integration.studies.moe_static.results import GAPS, UPDATES, Interval, Seeds, over_seeds

FREE, REPLAYED, DENSE = ("moe", "free"), ("moe", "replayed"), ("dense", "free")
WAYS = (
    (FREE, VERMILION, "o", "mixture, free routing"),
    (REPLAYED, BLUE, "s", "mixture, routes replayed"),
    (DENSE, BLACK, "^", "dense control"),
)
"""Model and routing, colour, marker, name."""
SMALL_STEP = steps_name(1, LEARNING_RATES[0])


def write(seeds: Seeds, folder: Path) -> None:
    """Writes the four pictures as PNG files."""
    for name, figure in (
        ("tails", tails(seeds)),
        ("lengths", lengths(seeds)),
        ("layers", layers(seeds)),
        ("gates", gates(seeds)),
    ):
        write_picture(folder / f"{name}.png", figure, dpi=120)


def tails(seeds: Seeds) -> Figure:
    """Spread, kurtosis and F(2) of token log ratios, by perturbation."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    names = GAPS + UPDATES
    panels = (("token_sd", "sd, nats"), ("kurtosis", "excess kurtosis"), ("beyond_2", "F(2): share outside [1/2, 2]"))
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (number, title) in zip(axes, panels, strict=True):
        for offset, ((kind, way), color, marker, name) in zip((-0.2, 0.0, 0.2), WAYS, strict=True):
            found = [(i, over_seeds(seeds, kind, "cells", cell, way, number)) for i, cell in enumerate(names)]
            there = [(i + offset, x) for i, x in found if x is not None]
            ax.errorbar(
                [x.mean for _, x in there],
                [i for i, _ in there],
                xerr=_inside([x for _, x in there]),
                label=name,
                **_dots(color, marker),
            )
        ax.set_xlabel(title)
        ax.grid(alpha=0.25)
        ax.axhline(len(GAPS) - 0.5, color=REFERENCE, lw=0.8)
    plain_log(axes[0], "x")
    axes[1].set_xscale("symlog", linthresh=1)
    axes[1].set_xlim(left=0)
    axes[2].set_xscale("symlog", linthresh=1e-4)
    axes[2].set_xlim(left=-2e-5)
    for ax in axes[1:]:
        plain_numbers(ax.xaxis)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, **LEGEND)
    return figure


def lengths(seeds: Seeds) -> Figure:
    """sd of log s over stretches of L tokens, relative to stretches of twelve tokens."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.subplots()
    here = "moe", "cells"
    lines = (
        ((*here, "bfloat16 engine", "free"), "bfloat16 engine, free"),
        ((*here, "router noise 0.2", "free"), "router noise 0.2, free"),
        ((*here, SMALL_STEP, "replayed"), f"{SMALL_STEP}, replayed"),
        ((*here, SMALL_STEP, "trained", "replayed"), "the same, on the responses of that step"),
    )
    for (path, name), look in zip(lines, SERIES, strict=False):
        ratios = [_relative(seeds, path, n) for n in LENGTHS]
        means = [x.mean for x in ratios]
        ax.errorbar(LENGTHS, means, yerr=[x.half for x in ratios], capsize=3, label=name, **look.line)
    ax.plot(
        LENGTHS, [(n / LENGTHS[0]) ** -0.5 for n in LENGTHS], color=REFERENCE, ls="--", label="independent tokens: $L^{-1/2}$"
    )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    ax.minorticks_off()
    ticks = [1, 0.7, 0.5, 0.35]
    ax.set_yticks(ticks, [str(x) for x in ticks])
    return finish(ax, "Spread of log s by length", "tokens L", "sd of log s, relative to L = 12").figure  # type: ignore[return-value]  # a Figure, no SubFigure


def _relative(seeds: Seeds, path: Sequence[str], length: int) -> Interval:
    def sds(seed: dict[str, object], n: int) -> float:
        found = over_seeds([seed], *path, f"log_s_sd_{n}")
        assert found is not None
        return found.mean

    return Interval.of([sds(seed, length) / sds(seed, LENGTHS[0]) for seed in seeds])


def layers(seeds: Seeds) -> Figure:
    """Share of slots that are routed to another expert, by layer."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    index = range(seeds[0]["size"]["layers"])
    shown = (GAPS[0], GAPS[2], SMALL_STEP, UPDATES[-1])
    for name, look in zip(shown, SERIES, strict=False):
        found = [over_seeds(seeds, "moe", "cells", name, "flips_by_layer", i) for i in index]
        shares = [x for x in found if x is not None]
        ax.errorbar(
            [i + 1 for i in index],
            [100 * x.mean for x in shares],
            yerr=100 * _inside(shares),
            capsize=3,
            label=name,
            **look.line,
        )
    ax.set_yscale("log")
    ax.set_yticks([0.3, 1, 3, 10], ["0.3", "1", "3", "10"])
    ax.set_xticks([i + 1 for i in index])
    finish(ax, "Slots with another expert", "layer", "share of slots, %", legend=None)
    figure.legend(loc="outside right center", fontsize=9, **LEGEND)
    return figure


def gates(seeds: Seeds) -> Figure:
    """Share of clip decisions that differ with the engine's log-probs, after one step."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    update = steps_name(1, LEARNING_RATES[1])
    ways = (
        (FREE, VERMILION, "free"),
        (("moe", "r2"), ORANGE, "R2"),
        (("moe", "r3"), BLUE, "R3"),
        (DENSE, BLACK, "dense"),
    )
    for ax, (band, title) in zip(
        axes, (("paper", "the paper's clip range"), ("scaled", "clip range scaled to 96 tokens")), strict=True
    ):
        for i, ((kind, way), color, name) in enumerate(ways):
            found = [over_seeds(seeds, kind, "gates", update, gap, band, way, "disagreement") for gap in GAPS]
            there = [(x + 0.2 * (i - 1.5), one) for x, one in enumerate(found) if one is not None]
            shares = [one for _, one in there]
            ax.bar(
                [x for x, _ in there],
                [100 * x.mean for x in shares],
                0.2,
                yerr=100 * _inside(shares),
                color=color,
                hatch=HATCHES[i],
                edgecolor="white",
                ecolor=GREY if color == BLACK else BLACK,
                capsize=2,
                label=name,
            )
        ax.set_xticks(range(len(GAPS)), [gap.replace(" engine", "\nengine").replace("noise ", "\nnoise ") for gap in GAPS])
        finish(
            ax,
            f"Clip decisions that change: {title}",
            "",
            "share of responses, %" if ax is axes[0] else "",
            legend="upper left",
        )
    return figure


def _inside(intervals: Sequence[Interval]) -> np.ndarray:
    """[2, n] half widths, down and up, as matplotlib takes them."""
    halves = np.array([x.half for x in intervals])
    return np.stack([halves, halves])


def _dots(color: str, marker: str) -> dict[str, object]:
    return {"fmt": marker, "color": color, "ms": 4, "lw": 1.2, "capsize": 2}
