"""The clip range from data: which ε clips a wanted share of the responses, and which share a given ε will clip."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from gspo_core._lib.checks import as_number, as_reals, on_host
from gspo_core.objectives.clipped_surrogates import Clip

from .drift import Tails
from .pilot import Pilot

PAPER_RATIO = 4.0 / 3.0
"""ε_high/ε_low of GSPO, arXiv 2507.18071, section 5.1: 4e-4 and 3e-4."""


class DriftLaw(Protocol):
    """Where log s lies: a `Drift`, two of them in a `BySign`, or a `Pilot`.

    >>> from gspo_core.clip_range import Drift
    >>> law: DriftLaw = Drift.of(2e-4)
    >>> law.tails(-3e-4, 4e-4, np.array([8192])).high.round(3).tolist()
    [0.003]
    """

    def tails(self, low: float, high: float, lengths: np.ndarray) -> Tails:
        """P(log s > high | A > 0) and P(log s < low | A < 0) for responses of `lengths` [n]."""


class ClipFraction(NamedTuple):
    """Shares of all responses, those with A = 0 included.

    >>> ClipFraction(low=0.125, high=0.25).total
    0.375
    """

    low: float
    """A < 0 and s < 1 − ε_low."""
    high: float
    """A > 0 and s > 1 + ε_high."""

    @property
    def total(self) -> float:
        """Both."""
        return self.low + self.high


@dataclass(frozen=True)
class LengthBin:
    """A row of `clip_table`.

    >>> from gspo_core.clip_range import Drift
    >>> (row,) = clip_table(0.2, Drift.of(1e-3), [1, 100], [50])
    >>> row.shortest, row.longest, row.share, round(row.common.total, 6)
    (1, 99, 1.0, 0.2)
    """

    shortest: int
    """Tokens."""
    longest: int
    """Tokens, included."""
    share: float
    """Of all responses."""
    common: ClipFraction
    """Shares of this bin's responses that the range for all lengths clips."""
    clip: Clip | None
    """The range that would clip the wanted share of this bin; None if no range does."""


def clip_fraction_for(clip: Clip, law: DriftLaw, lengths: Any = None, advantage: Any = None) -> ClipFraction:
    """The share of responses that `clip` is going to clip.

    A response with A > 0 can only be clipped above, one with A < 0 only below, one with A = 0 never:

        low  = (1/n) Σ_{A_i<0} P(log s < log(1 − ε_low)),    high = (1/n) Σ_{A_i>0} P(log s > log(1 + ε_high))

    Args:
        clip: the range.
        law: where log s lies.
        lengths: [n] tokens of the responses to predict for, a list or an array; None: those of the pilot.
        advantage: [n] their advantages, of which only the sign matters. None: the pilot's; if lengths are given, or there
            is no pilot, half of the responses have A > 0 and half A < 0.

    Returns: `ClipFraction`.

    Raises: ValueError if `law` is no pilot and no lengths are given, or for a wrong shape; TypeError for a wrong kind.

    Source: the normal law of log s is that of a mean of many small log ratios; GSPO, arXiv 2507.18071, eq. 7.

    >>> from gspo_core.clip_range import Drift
    >>> predicted = clip_fraction_for(Clip(3e-4, 4e-4), Drift.of(2e-4), [8192])
    >>> round(predicted.low, 3), round(predicted.high, 3)
    (0.163, 0.002)
    """
    if not isinstance(clip, Clip):
        raise TypeError(f"clip: expected a Clip(low, high), got {type(clip).__name__}")
    return _fraction(clip.low, clip.high, law, *_responses(law, lengths, advantage))


def measured_clip_fraction(clip: Clip, pilot: Pilot) -> ClipFraction:
    """The share of a pilot's responses that `clip` would have clipped: counted, where `clip_fraction_for` predicts.

        low = (1/n) #{i: A_i < 0, log s_i < log(1 − ε_low)},    high = (1/n) #{i: A_i > 0, log s_i > log(1 + ε_high)}

    Args:
        clip: the range.
        pilot: responses with their log s, of a policy that was trained with any range.

    Returns: `ClipFraction`.

    Raises: TypeError for a wrong kind, ValueError if the pilot has no responses.

    >>> pilot = Pilot([0.05, 0.01, -0.04, 0.05], [4, 4, 4, 4], [1.0, 1.0, -1.0, -1.0])
    >>> measured_clip_fraction(Clip(0.03, 0.04), pilot)
    ClipFraction(low=0.25, high=0.25)
    """
    if not isinstance(clip, Clip):
        raise TypeError(f"clip: expected a Clip(low, high), got {type(clip).__name__}")
    if not isinstance(pilot, Pilot):
        raise TypeError(f"pilot: expected a Pilot, got {type(pilot).__name__}")
    if not pilot.log_s.size:
        raise ValueError("pilot: expected at least one response")
    low = (pilot.advantage < 0) & (pilot.log_s < math.log1p(-clip.low))
    high = (pilot.advantage > 0) & (pilot.log_s > math.log1p(clip.high))
    return ClipFraction(float(low.mean()), float(high.mean()))


def clip_range_for(
    target: float, law: DriftLaw, lengths: Any = None, advantage: Any = None, *, high_over_low: float = PAPER_RATIO
) -> Clip:
    """The narrowest clip range that clips no more than `target` of the responses: the inverse of `clip_fraction_for`.

    Args:
        target: share of all responses, in (0, 1).
        law: where log s lies.
        lengths: as for `clip_fraction_for`.
        advantage: as for `clip_fraction_for`.
        high_over_low: ε_high/ε_low, positive; one number cannot choose two, and this is the paper's.

    Returns: a `Clip`; the objective is then `GSPO.with_clip(clip.low, clip.high)`.

    Raises: ValueError for numbers out of range, and where no range clips as much (then it names the most that one clips:
    responses that move in the direction of their advantage) or as little.

    >>> from gspo_core.clip_range import Drift
    >>> clip = clip_range_for(0.15, Drift.of(2e-4), [8192])
    >>> f"{clip.low:.1e} {clip.high:.1e}"
    '3.2e-04 4.2e-04'
    """
    target, high_over_low = as_number("target", target), as_number("high_over_low", high_over_low)
    if not 0.0 < target < 1.0:
        raise ValueError(f"target: expected a share in (0, 1), got {target}")
    if not 0.0 < high_over_low < math.inf:
        raise ValueError(f"high_over_low: expected a positive finite number, got {high_over_low}")
    sizes, weights = _responses(law, lengths, advantage)

    def fraction(low: float) -> float:
        return _fraction(low, low * high_over_low, law, sizes, weights).total

    if fraction(NARROWEST) < target:
        most = fraction(NARROWEST)
        raise ValueError(
            f"target: no clip range clips {target:.3g} of these responses; the narrowest clips {most:.3g}. Responses with "
            "A = 0 are never clipped, nor are those that moved against their advantage: ask for less"
        )
    if fraction(WIDEST) > target:
        raise ValueError(
            f"target: even Clip({WIDEST}, {WIDEST * high_over_low:.3g}) clips {fraction(WIDEST):.3g} of these responses, more "
            f"than {target:.3g}: the policy has moved too far for a clip range to help; lower the learning rate"
        )
    narrow, wide = NARROWEST, WIDEST
    while wide / narrow > 1.0 + 1e-9:
        middle = math.sqrt(narrow * wide)
        narrow, wide = (middle, wide) if fraction(middle) > target else (narrow, middle)
    return Clip(wide, wide * high_over_low)


NARROWEST, WIDEST = 1e-9, 0.999
"""Where ε_low is looked for."""


def clip_table(
    target: float,
    law: DriftLaw,
    edges: Sequence[int],
    lengths: Any = None,
    advantage: Any = None,
    *,
    high_over_low: float = PAPER_RATIO,
) -> tuple[LengthBin, ...]:
    """Effect of one clip range on each bin of lengths, and the range that would suit each bin.

    Bin j holds the lengths edges[j] ≤ |y| < edges[j + 1]; responses outside and empty bins are left out.

    Args:
        target, law, lengths, advantage, high_over_low: as for `clip_range_for`.
        edges: of the bins; tokens, ascending.

    Returns: a `LengthBin` for each bin that is not empty.

    Raises: what `clip_range_for` does, and ValueError unless the edges ascend.

    >>> from gspo_core.clip_range import Drift
    >>> for row in clip_table(0.2, Drift.of(1e-3), [1, 100, 10_000], [50, 5000]):
    ...     print(row.longest, round(row.common.total, 2), f"{row.clip.low:.4f}")
    99 0.36 0.0047
    9999 0.04 0.0012
    """
    bounds, edges = as_reals("edges", edges), on_host("edges", edges).tolist()
    if bounds.ndim != 1 or len(bounds) < 2 or not (bounds[1:] > bounds[:-1]).all():
        raise ValueError(f"edges: expected at least two ascending numbers, got {edges}")
    sizes, weights = _responses(law, lengths, advantage)
    common = clip_range_for(target, law, sizes, weights, high_over_low=high_over_low)
    rows = []
    for shortest, end in itertools.pairwise(edges):
        inside = (sizes >= shortest) & (sizes < end)
        if inside.any():
            own = (sizes[inside], weights[inside])
            try:
                clip = clip_range_for(target, law, *own, high_over_low=high_over_low)
            except ValueError:
                clip = None
            share = float(inside.mean())
            rows.append(LengthBin(shortest, end - 1, share, _fraction(common.low, common.high, law, *own), clip))
    return tuple(rows)


def _fraction(low: float, high: float, law: DriftLaw, lengths: np.ndarray, signs: np.ndarray) -> ClipFraction:
    """Means over the responses; a sign of NaN stands for half a response of each."""
    tails = law.tails(math.log1p(-low), math.log1p(high), lengths)
    good = np.where(np.isnan(signs), 0.5, signs > 0)
    bad = np.where(np.isnan(signs), 0.5, signs < 0)
    return ClipFraction(float((bad * tails.low).mean()), float((good * tails.high).mean()))


def _responses(law: DriftLaw, lengths: Any, advantage: Any) -> tuple[np.ndarray, np.ndarray]:
    """[n] lengths and advantages of the responses to predict for."""
    if isinstance(law, type) or not callable(getattr(law, "tails", None)):
        came = f"the class {law.__name__}" if isinstance(law, type) else type(law).__name__
        raise TypeError(f"law: expected a Drift, a BySign or a Pilot, got {came}")
    if lengths is None and advantage is not None:
        raise ValueError("advantage: given without lengths; give both, or neither")
    if lengths is None:
        if not isinstance(law, Pilot):
            raise ValueError("lengths: a law without responses of its own needs the lengths to predict for")
        if not law.lengths.size:
            raise ValueError("law: the pilot has no responses")
        return law.lengths, law.advantage
    sizes = as_reals("lengths", lengths)
    signs = np.full(sizes.shape, math.nan) if advantage is None else as_reals("advantage", advantage)
    if sizes.ndim != 1 or not sizes.size or not (sizes > 0).all():
        raise ValueError(f"lengths: expected [n] positive numbers of tokens, got shape {list(sizes.shape)}")
    if signs.shape != sizes.shape:
        raise ValueError(f"advantage: expected the shape of lengths, {list(sizes.shape)}, got {list(signs.shape)}")
    return sizes, signs
