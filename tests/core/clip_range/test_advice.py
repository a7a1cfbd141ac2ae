"""The advised clip range clips what was asked for, and the predicted fraction is what the gate then does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.libraries import Library
from support.oracles import advice as oracle_advice

from gspo_core import GSPO, Clip, Packed, Padded, Pilot, clip_range_for, policy_loss
from gspo_core.clip_range import BySign, Drift, clip_fraction_for, clip_table, estimate_drift, measured_clip_fraction
from gspo_core.layouts import Restricted


def trained(rng: np.random.Generator, n: int, lengths: np.ndarray, still: float = 0.25) -> tuple[np.ndarray, ...]:
    """(d [n, T], mask, advantage [n]) as a training step leaves them: good responses up, bad ones down, heavy tails.

    A quarter of the responses has not moved, a fifth has no advantage.
    """
    own = rng.choice(lengths, size=n)
    mask = np.arange(lengths.max())[None, :] < own[:, None]
    advantage = rng.choice([1.0, -0.5, 0.0], p=[0.5, 0.3, 0.2], size=n)
    scale = np.where(advantage < 0, 0.08, 0.04)[:, None]
    d = 0.006 * np.sign(advantage)[:, None] - 0.002 + scale * rng.standard_t(3, size=mask.shape)
    return np.where(mask & (rng.random(n) > still)[:, None], d, 0.0), mask, advantage


def measured(clip: Clip, d: np.ndarray, mask: np.ndarray, advantage: np.ndarray) -> float:
    """The share of responses that the loss itself says are clipped."""
    loss = policy_loss(replace(GSPO, surrogate=clip), d, np.zeros(d.shape), advantage, Padded(mask))
    return float(loss.clipped.mean())


def pilot_of(d: np.ndarray, mask: np.ndarray, advantage: np.ndarray) -> Pilot:
    """From token log ratios."""
    return Pilot.measure(d, np.zeros(d.shape), advantage, Padded(mask))


@given(seed=st.integers(0, 2**16), low=st.sampled_from([0.003, 0.05, 0.6]), high=st.sampled_from([0.002, 0.03, 0.5]))
def test_the_measured_share_is_the_gates_whatever_the_lengths(seed: int, low: float, high: float) -> None:
    """Where the prediction pools lengths, and is another number."""
    d, mask, advantage = trained(np.random.default_rng(seed), 64, np.array([1, 3, 12]))
    clip = Clip(low, high)
    loss = policy_loss(replace(GSPO, surrogate=clip), d, np.zeros(d.shape), advantage, Padded(mask))
    found = measured_clip_fraction(clip, pilot_of(d, mask, advantage))
    assert found.high == float((loss.clipped & (advantage > 0)).mean())
    assert found.low == float((loss.clipped & (advantage < 0)).mean())


def test_the_measured_share_is_not_the_predicted_one() -> None:
    d, mask, advantage = trained(np.random.default_rng(0), 64, np.array([1, 3, 12]))
    clip, pilot = Clip(0.01, 0.01), pilot_of(d, mask, advantage)
    assert 0.1 < measured_clip_fraction(clip, pilot).total < 0.6
    assert measured_clip_fraction(clip, pilot) != clip_fraction_for(clip, pilot)


@given(seed=st.integers(0, 2**16), length=st.integers(1, 5), width=st.sampled_from([0.003, 0.05, 0.6]))
def test_on_responses_of_one_length_a_pilot_says_exactly_what_the_gate_does(
    library: Library, seed: int, length: int, width: float
) -> None:
    """The gate of A > 0 is above, that of A < 0 below, A = 0 has none; empty rows and padding do not count."""
    d, mask, advantage = trained(np.random.default_rng(seed), 12, np.array([length]))
    mask[::4], high = False, width / 2
    arrays = [np.where(mask, d, math.nan), np.where(mask, 0.0, math.inf), np.where(mask[:, 0], advantage, math.nan)]
    pilot = Pilot.measure(*map(library.array, arrays), Padded(library.array(mask)))
    found = clip_fraction_for(Clip(width, high), pilot)
    rows = [row[own].tolist() for row, own in zip(d, mask, strict=True)]
    cut = np.array([oracle_advice.clipped(row, a, width, high) for row, a in zip(rows, advantage, strict=True)])
    assert found.high == pytest.approx(cut[advantage > 0].sum() / 9, abs=1e-12)
    assert found.low == pytest.approx(cut[advantage < 0].sum() / 9, abs=1e-12)
    assert found.total == pytest.approx(found.low + found.high, abs=1e-12)


def test_the_gates_are_asked_at_all() -> None:
    """The guard of the claim above: by hand, with a response on either side of either bound."""
    pilot = Pilot([0.2, 0.2, -0.2, -0.2, 0.2, 0.05], [7] * 6, [1.0, -1.0, 1.0, -1.0, 0.0, 1.0])
    assert clip_fraction_for(Clip(0.1, 0.1), pilot) == (pytest.approx(1 / 6), pytest.approx(1 / 6))
    assert clip_fraction_for(Clip(0.1, 0.04), pilot) == (pytest.approx(1 / 6), pytest.approx(2 / 6))
    assert clip_fraction_for(Clip(0.3, 0.3), pilot) == (0.0, 0.0)


@pytest.mark.parametrize("target", [0.02, 0.05, 0.15, 0.25])
def test_the_advice_from_one_half_holds_on_the_other(target: float) -> None:
    """Within 2 points (the pilot's own error is 1 point) where good and bad responses drift apart, with heavy tails."""
    rng, lengths = np.random.default_rng(0), np.array([3, 5, 9, 30])
    pilot = pilot_of(*trained(rng, 1500, lengths))
    clip = clip_range_for(target, pilot)
    assert clip.high / clip.low == pytest.approx(4 / 3)
    later = trained(rng, 20_000, lengths)
    assert measured(clip, *later) == pytest.approx(target, abs=0.02)
    assert clip_fraction_for(clip, pilot).total == pytest.approx(target, abs=0.002)


@pytest.mark.slow
def test_a_normal_law_would_not_have_held() -> None:
    """The guard: neither one normal law for all nor one for each sign is within 2 points everywhere."""
    rng, lengths = np.random.default_rng(1), np.array([3, 5, 9, 30])
    d, mask, advantage = trained(rng, 20_000, lengths)
    layout, zeros = Padded(mask), np.zeros(d.shape)
    sides = [estimate_drift(d, zeros, Restricted(layout, mask & (sign * advantage > 0)[:, None])) for sign in (1, -1)]
    for law in (estimate_drift(d, zeros, layout), BySign(*sides)):
        errors = []
        for target in (0.02, 0.05, 0.15, 0.25):
            clip = clip_range_for(target, law, mask.sum(1), advantage)
            errors.append(abs(measured(clip, d, mask, advantage) - target))
        assert max(errors) > 0.03


@pytest.mark.slow
def test_the_advice_carries_over_to_other_lengths() -> None:
    """A pilot of 16 tokens predicts responses of 8 and 64, where the tokens are independent."""
    rng = np.random.default_rng(2)
    pilot = pilot_of(*trained(rng, 20_000, np.array([16])))
    for length in (8, 64):
        later = trained(rng, 20_000, np.array([length]))
        clip = clip_range_for(0.15, pilot, [length] * 20_000, later[2])
        # the shape of the tails is the pilot's: heavier than a sum of 64, lighter than a sum of 8
        assert measured(clip, *later) == pytest.approx(0.15, abs=0.02)
        same = clip_range_for(0.15, pilot)
        assert abs(measured(same, *later) - 0.15) > 0.02, "the length did not matter"


@given(
    kappa=st.floats(1e-6, 1e-2), effect=st.floats(0.5, 5), length=st.integers(1, 20_000), target=st.floats(0.01, 0.3),
    ratio=st.sampled_from([0.5, 1.0, 4 / 3]),
)  # fmt: skip
def test_range_and_fraction_are_inverse_to_each_other(
    kappa: float, effect: float, length: int, target: float, ratio: float
) -> None:
    law = Drift.of(kappa, effect)
    assume(clip_fraction_for(Clip(1e-9, 1e-9 * ratio), law, [length]).total > target)
    clip = clip_range_for(target, law, [length], high_over_low=ratio)
    assert clip.high == pytest.approx(ratio * clip.low)
    # bisected to 1e-9 of the width, where the density of z = x/sd is below 0.4 and x/sd below 5
    assert clip_fraction_for(clip, law, [length]).total == pytest.approx(target, abs=1e-7 * (1 + kappa**0.5 * length**0.5))


@given(seed=st.integers(0, 99), target=st.floats(0.01, 0.3))
def test_the_narrowest_range_that_clips_no_more(seed: int, target: float) -> None:
    """Of an empirical law, whose fraction moves in steps."""
    pilot = pilot_of(*trained(np.random.default_rng(seed), 200, np.array([4, 6])))
    clip = clip_range_for(target, pilot)
    assert clip_fraction_for(clip, pilot).total <= target + 1e-12
    narrower = Clip(clip.low * (1 - 1e-8), clip.high * (1 - 1e-8))
    assert clip_fraction_for(narrower, pilot).total > target - 1e-12


def test_pilots_add_up() -> None:
    rng = np.random.default_rng(3)
    d, mask, advantage = trained(rng, 100, np.array([4, 6]))
    whole = pilot_of(d, mask, advantage)
    parts = pilot_of(d[:30], mask[:30], advantage[:30]) + pilot_of(d[30:], mask[30:], advantage[30:])
    assert clip_range_for(0.1, parts) == clip_range_for(0.1, whole)
    packed = Pilot.measure(d[mask], np.zeros(mask.sum()), advantage, Packed(np.nonzero(mask)[0], 100))
    assert clip_range_for(0.1, packed).low == pytest.approx(clip_range_for(0.1, whole).low, rel=1e-6)


@pytest.mark.slow
def test_the_table_says_that_one_range_clips_short_answers_more() -> None:
    rng = np.random.default_rng(4)
    d, mask, advantage = trained(rng, 30_000, np.array([4, 16, 64]), still=0.0)
    pilot = pilot_of(d, mask, advantage)
    rows = clip_table(0.1, pilot, [1, 8, 32, 128, 256])
    assert [(r.shortest, r.longest) for r in rows] == [(1, 7), (8, 31), (32, 127)]
    assert sum(r.share for r in rows) == pytest.approx(1.0)
    common = [r.common.total for r in rows]
    assert common[0] > 1.5 * common[1] > 2.0 * common[2]
    assert np.dot(common, [r.share for r in rows]) == pytest.approx(0.1, abs=1e-3)
    widths = [r.clip.low for r in rows if r.clip is not None]
    assert widths[0] > 1.5 * widths[1] > 2.0 * widths[2]
    for row, length in zip(rows, (4, 16, 64), strict=True):
        own = mask.sum(1) == length
        assert row.clip is not None
        assert measured(row.clip, d[own], mask[own], advantage[own]) == pytest.approx(0.1, abs=0.02)
        assert row.common.total == pytest.approx(
            measured(clip_range_for(0.1, pilot), d[own], mask[own], advantage[own]), abs=0.02
        )


def test_a_bin_that_cannot_be_clipped_as_much_has_no_range() -> None:
    pilot = Pilot([0.1, -0.1, 0.1], [4, 4, 40], [1.0, -1.0, 0.0])
    short, long = clip_table(0.4, pilot, [1, 10, 100])
    assert short.clip is not None
    assert long.clip is None


FOUR = Pilot([0.01, -0.02, 0.03, -0.01], [4, 5, 6, 4], [1.0, -1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: clip_range_for(0.0, FOUR), r"target: expected a share in \(0, 1\), got 0.0"),
        (lambda: clip_range_for(0.9, FOUR), "target: no clip range clips 0.9 of these responses; the narrowest clips 0.5"),
        (lambda: clip_range_for(0.1, FOUR, high_over_low=0.0), "high_over_low: expected a positive finite number"),
        (lambda: clip_range_for(0.1, Drift.of(9.0), [9], [-1.0]), "the policy has moved too far"),
        (lambda: clip_range_for(0.1, Drift.of(1e-3)), "lengths: a law without responses of its own"),
        (lambda: clip_range_for(0.1, FOUR, advantage=[1.0]), "advantage: given without lengths"),
        (lambda: clip_range_for(0.1, FOUR, [3, 0]), "lengths: expected"),
        (lambda: clip_range_for(0.1, FOUR, [3, 4], [1.0]), r"advantage: expected the shape of lengths, \[2\], got \[1\]"),
        (lambda: clip_fraction_for(Clip(0.1, 0.1), Pilot([], [], [])), "law: the pilot has no responses"),
        (lambda: clip_table(0.1, FOUR, [5]), "edges: expected at least two ascending numbers"),
        (lambda: clip_table(0.1, FOUR, [5, 5]), "edges: expected at least two ascending numbers"),
        (lambda: Pilot([0.1], [3], [1.0, 2.0]), r"advantage: expected shape \[1\], got \[2\]"),
        (lambda: Pilot([math.nan], [3], [1.0]), "log_s: expected finite numbers"),
        (lambda: pilot_of(np.ones((1, 2)), np.full((1, 2), True), np.ones((1, 2))), r"advantage: expected shape \[1\]"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_what_is_no_law_or_no_clip_is_refused() -> None:
    with pytest.raises(TypeError, match="law: expected a Drift, a BySign or a Pilot, got float"):
        clip_fraction_for(Clip(0.1, 0.1), 2e-4, [9])  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="clip: expected a Clip"):
        clip_fraction_for((0.1, 0.1), Drift.of(2e-4), [9])  # type: ignore[arg-type]  # wrong on purpose
