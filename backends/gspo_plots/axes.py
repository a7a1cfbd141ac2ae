"""What the plots share: axes, colours, labels."""

from __future__ import annotations

from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Corner = Literal["best", "upper left", "upper right"]
"""Where a legend goes."""

GOOD, BAD, BAND, INK, FAINT = "#2b6cb0", "#c53030", "#2f855a", "#1a202c", "#a0aec0"
"""A > 0, A < 0, the clip range and predictions, text and references."""


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure. It belongs to no pyplot: save it with `ax.figure.savefig`."""
    return Figure(figsize=(6.4, 4.2), layout="constrained").add_subplot() if ax is None else ax


def label(ax: Axes, title: str, x: str, y: str, *, legend: Corner = "best") -> Axes:
    """Title, axis labels, a faint grid and a legend."""
    ax.set_title(title, fontsize=11)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=9, loc=legend)
    return ax
