"""One style for all pictures of this project: colours, a marker and a dash per series, legends, and plain numbers on log axes.

The colours are those of Okabe and Ito, which people with a colour vision deficiency can tell apart (M. Okabe, K. Ito, Color
Universal Design, jfly.uni-koeln.de/color, 2008). Series differ in marker and dash as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"
POSITIVE, NEGATIVE, RANGE, REFERENCE = BLUE, VERMILION, GREEN, GREY
"""Colours by meaning: A > 0, A < 0, the clip range, and lines for comparison."""

Dash = str | tuple[int, tuple[int, ...]]
Corner = Literal["best", "upper left", "upper right", "lower left", "lower right", "center left"]
"""Where a legend goes."""


class Series(NamedTuple):
    """The look of one series."""

    color: str
    marker: str
    dash: Dash

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot` and `Axes.errorbar`.

        >>> SERIES[1].line["color"], SERIES[1].line["marker"]
        ('#D55E00', 's')
        """
        return {"color": self.color, "marker": self.marker, "linestyle": self.dash, "linewidth": 1.6, "markersize": 5}


SERIES = (
    Series(BLUE, "o", "-"),
    Series(VERMILION, "s", (0, (6, 2))),
    Series(GREEN, "^", (0, (6, 2, 1, 2))),
    Series(PURPLE, "D", (0, (1, 1))),
    Series(ORANGE, "v", (0, (3, 1))),
    Series(SKY, "P", (0, (3, 1, 1, 1, 1, 1))),
    Series(BLACK, "X", (0, (1, 3))),
)
"""The looks of the first seven series of a picture, in this order."""
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
"""Hatches of bars, one per series."""


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure that pyplot does not hold: save it with `ax.figure.savefig`."""
    return Figure(figsize=(6.4, 4.2), layout="constrained").add_subplot() if ax is None else ax


def finish(ax: Axes, title: str, x: str, y: str, *, legend: Corner | None = "best") -> Axes:
    """Title, axis labels, a faint grid, and a legend unless it is None."""
    ax.set_title(title, fontsize=11)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    if legend is not None:
        ax.legend(fontsize=9, loc=legend, **LEGEND)
    return ax


LEGEND: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none", "handlelength": 3.0}
"""Keyword arguments of every legend: no border, and a background that keeps it readable over a curve."""


def plain_log(ax: Axes, which: Literal["x", "y"], multiples: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Makes an axis logarithmic with ticks such as 0.5, 1, 2 and 50 instead of powers of ten.

    Args:
        ax: the axes.
        which: "x" or "y".
        multiples: multiples of each power of ten that get a tick; (1.0,) for an axis over many powers.

    >>> ax = axes_or_new(None)
    >>> plain_log(ax, "x")
    >>> ax.xaxis.get_major_formatter()(0.05)
    '0.05'
    """
    if which == "x":
        ax.set_xscale("log")
    else:
        ax.set_yscale("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=multiples, numticks=30))
    axis.set_minor_formatter(NullFormatter())
    plain_numbers(axis)


def plain_numbers(axis: Axis) -> None:
    """Labels such as 0.001 and 2000 on an axis with any scale."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers only, for steps, rollouts and counts."""
    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
