"""The plots draw what they say: every test reads the drawn numbers back and compares them with its own."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from gspo_plots import (
    clip_fraction_by_length,
    clip_fraction_by_mini_batch,
    design_effect_over_training,
    log_s_histogram,
    spread_by_length,
    variance_decomposition,
)
from gspo_plots.style import HATCHES, SERIES, axes_or_new, plain_log, plain_numbers, whole_numbers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gspo_core import Clip, Padded, Pilot
from gspo_core.clip_range import BySign, Drift
from gspo_core.mismatch import mismatch_report


def y_of(ax: Axes, index: int) -> np.ndarray:
    """Heights of a drawn line."""
    return np.asarray(ax.lines[index].get_ydata(), dtype=float)


def x_of(ax: Axes, index: int) -> np.ndarray:
    """Where they stand."""
    return np.asarray(ax.lines[index].get_xdata(), dtype=float)


def normal_pilot(n: int = 20_000, lengths: tuple[int, ...] = (8, 32, 128), spread: float = 0.05) -> Pilot:
    """log s ~ Normal(0, spread²/L), half of either sign, and a few that have not moved or have no advantage."""
    rng = np.random.default_rng(0)
    size = rng.choice(lengths, size=n)
    log_s, advantage = spread * rng.normal(size=n) / np.sqrt(size), rng.choice([1.0, -1.0], size=n)
    log_s[:100], advantage[100:200] = 0.0, 0.0
    return Pilot(log_s, size, advantage)


def test_the_histogram_counts_every_response_that_moved_by_its_sign() -> None:
    pilot = Pilot([0.01, 0.011, -0.05, 9.0, 0.0, 0.02], [4] * 6, [1.0, 1.0, -1.0, 1.0, 1.0, 0.0])
    ax = log_s_histogram(pilot, Clip(0.03, 0.04), bins=10)
    good, bad = y_of(ax, 0), y_of(ax, 1)
    assert (good.sum(), bad.sum()) == (3, 1)
    width = 6 * math.log1p(0.04) / 10
    assert x_of(ax, 0)[int(np.argmax(good))] == pytest.approx(width / 2), "0.01 and 0.011 share the bin right of 0"
    assert good[-1] == 1, "what is beyond the axis is in the end bin"
    assert bad[int((-0.05 + 5 * width) // width)] == 1
    (band,) = [p for p in ax.patches if "clip range" in str(p.get_label())]
    left, right = band.get_extents().transformed(ax.transData.inverted()).intervalx
    assert (left, right) == (pytest.approx(math.log(0.97)), pytest.approx(math.log(1.04)))
    assert "(3)" in str(ax.lines[0].get_label())


def test_the_normal_law_over_it_fits_normal_responses() -> None:
    """χ² over the bins with more than 20 expected: the mean of (counted − expected)²/expected is about 1."""
    law = Drift(0.05**2 / 2, 0.0, 0.05**2, 1.0)
    ax = log_s_histogram(normal_pilot(), Clip(0.02, 0.02), BySign(law, law))
    for counted, expected in ((y_of(ax, 0), y_of(ax, 2)), (y_of(ax, 1), y_of(ax, 3))):
        enough = expected[1:-1] > 20
        assert enough.sum() > 20
        chi = ((counted - expected)[1:-1][enough] ** 2 / expected[1:-1][enough]).mean()
        assert 0.5 < chi < 1.6
    wrong = log_s_histogram(normal_pilot(), Clip(0.02, 0.02), law._replace(variance=2 * law.variance))
    assert ((y_of(wrong, 0) - y_of(wrong, 2)) ** 2)[1:-1].sum() > 20 * ((y_of(ax, 0) - y_of(ax, 2)) ** 2)[1:-1].sum()


def test_the_three_laws_clip_equally_much_in_all_and_differ_by_length() -> None:
    pilot, clip, edges = normal_pilot(), Clip(0.004, 0.004), [1, 16, 64, 256]
    ax = clip_fraction_by_length(pilot, clip, edges)
    moved = np.where(pilot.advantage > 0, pilot.log_s > math.log1p(0.004), pilot.log_s < math.log1p(-0.004))
    cut = moved & (pilot.advantage != 0)
    by_length = [pilot.lengths == length for length in (8, 32, 128)]
    assert list(x_of(ax, 0)) == [8, 32, 128]
    assert list(y_of(ax, 2)) == pytest.approx([cut[own].mean() for own in by_length]), "power 1 is the clip itself"
    shares = [own.mean() for own in by_length]
    for line in range(3):
        assert np.dot(y_of(ax, line), shares) == pytest.approx(cut.mean(), abs=1e-9)
    assert (np.diff(y_of(ax, 0)) > 0.05).all(), "a fixed band clips long responses"
    assert np.ptp(y_of(ax, 1)) < 0.03, "√|y| is fair to noise"
    assert (np.diff(y_of(ax, 2)) < -0.05).all(), "GSPO's clips short ones"


def test_empty_bins_are_left_out_and_nothing_clipped_is_zero() -> None:
    pilot = Pilot([0.1, -0.1], [5, 6], [1.0, -1.0])
    ax = clip_fraction_by_length(pilot, Clip(0.5, 0.5), [1, 3, 10, 20])
    assert [list(y_of(ax, i)) for i in range(3)] == [[0.0]] * 3


@pytest.mark.parametrize(("power", "exponent"), [(0.5, -0.5), (0.0, 0.0), (0.25, -0.25)])
def test_the_fitted_exponent_is_that_of_the_spread(power: float, exponent: float) -> None:
    rng = np.random.default_rng(1)
    size = rng.choice([4, 16, 64, 256], size=40_000)
    pilot = Pilot(0.1 * rng.normal(size=40_000) / size**power, size, np.ones(40_000))
    ax = spread_by_length(pilot, [1, 8, 32, 128, 512])
    assert list(y_of(ax, 0)) == pytest.approx([0.1 / length**power for length in (4, 16, 64, 256)], rel=0.03)
    slope = np.polyfit(np.log(x_of(ax, 1)), np.log(y_of(ax, 1)), 1)[0]
    assert slope == pytest.approx(exponent, abs=0.01)
    assert f"{slope:.2f}" in str(ax.lines[1].get_label())
    assert np.polyfit(np.log(x_of(ax, 2)), np.log(y_of(ax, 2)), 1)[0] == pytest.approx(-0.5)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_a_design_effect_is_drawn_as_it_is() -> None:
    ax = design_effect_over_training([1, 2, 3], {"staleness": [3.0, 2.5, 4.0], "noise": [1.0, 0.9, 1.1]})
    assert [list(y_of(ax, i)) for i in (0, 1)] == [[3.0, 2.5, 4.0], [1.0, 0.9, 1.1]]
    assert [str(line.get_label()) for line in ax.lines[:2]] == ["staleness", "noise"]
    assert list(y_of(ax, 2)) == [1.0, 1.0]


def test_the_decomposition_is_in_units_of_the_first_run() -> None:
    rng = np.random.default_rng(2)

    def report(noise: float) -> Any:
        old = -rng.exponential(size=(2000, 16))
        drift = 0.1 * np.repeat(rng.normal(size=(2000, 1)), 16, axis=1)  # the tokens of a response move as one
        args = (old + drift, old, old + noise * rng.normal(size=old.shape), np.ones(2000), Padded(old < 0), Clip(0.1, 0.1))
        return mismatch_report(*args)

    ax = variance_decomposition({"free": report(0.1), "replayed": report(0.02)})
    stale, noise = ([bar.get_height() for bar in container] for container in ax.containers)
    assert [a + b for a, b in zip(stale, noise, strict=True)][::2] == pytest.approx([1.0, 1.0])
    # tokens: 0.01 each, replayed noise 0.0004; log s: 0.01 and 0.01/16, replayed 0.0004/16
    assert stale == pytest.approx([0.5, 0.5, 16 / 17, 16 / 17], rel=0.1)
    assert noise == pytest.approx([0.5, 0.02, 1 / 17, 0.04 / 17], rel=0.1)
    assert [bar.get_y() for bar in ax.containers[1]] == pytest.approx(stale), "stacked"
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "free\ntokens",
        "replayed\ntokens",
        "free\nlog s",
        "replayed\nlog s",
    ]


def test_mini_batches_are_averaged_over_rollouts() -> None:
    fractions = np.array([[0.0, 0.1, 0.2], [0.0, 0.3, 0.4]])
    ax = clip_fraction_by_mini_batch(fractions, [0.0, 0.15, 0.3])
    assert list(y_of(ax, 0)) == pytest.approx([0.0, 0.2, 0.3])
    assert list(y_of(ax, 1)) == [0.0, 0.15, 0.3]
    assert list(x_of(ax, 0)) == [1, 2, 3]


def test_a_plot_draws_where_it_is_told_and_can_be_saved() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert log_s_histogram(normal_pilot(), Clip(0.02, 0.02), ax=left) is left
    assert not right.lines
    for ax in (spread_by_length(normal_pilot(), [1, 16, 64, 256]), clip_fraction_by_mini_batch(np.ones((2, 2)))):
        file = io.BytesIO()
        ax.get_figure().savefig(file)
        assert len(file.getvalue()) > 5000
        assert ax.get_title()
        assert ax.get_ylabel()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: log_s_histogram(Pilot([0.0, 1.0], [3, 3], [1.0, 0.0]), Clip(0.1, 0.1)), "pilot: no response has an advantage"),
        (lambda: clip_fraction_by_length(normal_pilot(99), Clip(0.1, 0.1), [500, 600]), "edges: none of the pilot's responses"),
        (lambda: spread_by_length(normal_pilot(), [1, 999]), "edges: 1 of the bins"),
        (lambda: design_effect_over_training([1, 2], {}), "design_effects: expected at least one series"),
        (lambda: design_effect_over_training([1, 2], {"x": [1.0]}), "design_effects: x has 1 numbers for 2 steps"),
        (lambda: variance_decomposition({}), "reports: expected at least one"),
        (lambda: clip_fraction_by_mini_batch(np.ones(3)), r"fractions: expected shape \[rollouts, mini-batches\], got \[3\]"),
        (lambda: clip_fraction_by_mini_batch(np.ones((2, 2)), [0.1]), "predicted: expected 2 numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_series_differ_in_colour_marker_and_dash() -> None:
    for looks in zip(*SERIES, strict=True):
        assert len(set(looks)) == len(SERIES)
    assert len(set(HATCHES)) == len(HATCHES) >= len(SERIES)


def labels(axis: Any) -> list[str]:
    """The labels of an axis, minor ones included."""
    axis.figure.canvas.draw()
    return [text for minor in (False, True) for label in axis.get_ticklabels(minor=minor) if (text := label.get_text())]


def test_log_axes_have_plain_numbers() -> None:
    """Matplotlib's own formatter would write 6×10¹ between two powers of ten."""
    ax = axes_or_new(None)
    ax.plot([20, 700], [0.003, 0.05])
    ax.set_xscale("log")
    assert any("10^" in text for text in labels(ax.xaxis))
    plain_log(ax, "x")
    plain_log(ax, "y", (1.0,))
    assert {"20", "50", "100", "200", "500"} <= set(labels(ax.xaxis))
    assert "0.01" in labels(ax.yaxis)
    assert all(float(text) > 0 for text in labels(ax.xaxis) + labels(ax.yaxis))


def test_steps_have_whole_numbers() -> None:
    ax = axes_or_new(None)
    ax.plot([0, 3], [0, 1])
    assert not all(float(text.replace("−", "-")).is_integer() for text in labels(ax.xaxis))
    whole_numbers(ax.xaxis)
    plain_numbers(ax.xaxis)
    assert {"0", "1", "2", "3"} <= set(labels(ax.xaxis))
    assert all(float(text).is_integer() for text in labels(ax.xaxis))
