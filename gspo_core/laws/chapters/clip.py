"""The clip: who is silent, who is not, and where the band ends (theory E, B5-B7)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import rounding, same_value, same_weight, scale_of, zero
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject

SIGNS = [1.0, -1.0]


def _level(setting: Setting, times: float, length: int, advantage: float) -> Batch:
    """One response, all tokens `times` the log bound on that side."""
    low, high = setting.log_bounds
    return Batch.of([[times * high if times > 0 else -times * low] * length], [advantage])


@law(
    "a clipped unit has no gradient",
    source="theory E2; GSPO eq. 5",
    otherwise="units beyond the band still move the policy",
    needs={Claim.CLIP, Claim.JUDGED},
    cases=lambda setting: batches(setting, kinds=["level", "spread", "beyond", "equal"], advantages=[1.0, -1.0, 2.0]),
    anchors=lambda setting: [_level(setting, 2.0, 1, 1.0), _level(setting, -2.0, 1, -1.0)],
)
def silent(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """u = 0 for A > 0 with r > 1 + ε_high, and for A < 0 with r < 1 − ε_low."""
    if not setting.is_clear(batch, subject.kink):
        return False
    clipped = np.array(setting.verdict(batch).clipped, dtype=bool)
    where = batch.mask & (clipped if setting.like.ratio.per_token else clipped[:, None])
    zero(subject(batch.poisoned(0.0)), where, setting, batch, "the gradient of clipped units")
    return bool(where.any())


@law(
    "an unclipped unit is live, however far from 1 on its other side",
    source="theory E1, E2: only one bound matters for each sign",
    otherwise="units that should learn are silent: the clip is on the wrong side, or on both, or a guard cuts them off",
    needs={Claim.CLIP, Claim.JUDGED},
    cases=lambda setting: batches(setting, kinds=["level", "spread", "beyond", "equal"], advantages=[1.0, -1.0, 2.0]),
    anchors=lambda setting: [_level(setting, 2.0, 1, -1.0), _level(setting, -2.0, 1, 1.0)],
)
def live(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """u = 1 for A > 0 with r ≤ 1 + ε_high, and for A < 0 with r ≥ 1 − ε_low; then ∂loss/∂logp = −A r · share."""
    if not setting.is_clear(batch, subject.kink):
        return False
    expected = np.array(setting.verdict(batch).weight)
    found = subject(batch.poisoned(0.0))
    chosen = found._replace(weight=np.where(expected != 0, found.weight, 0.0))
    same_weight(chosen, expected, setting, batch, "the gradient of live units")
    return bool(expected.any())


@law(
    "beyond the band the loss is that of the bound",
    source="theory E1: A min(r, 1 + ε_high) for A > 0, A max(r, 1 − ε_low) for A < 0",
    otherwise="a clipped unit pays another price than the bound's",
    needs={Claim.CLIP, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([1.5, 3.0, 10.0]), st.integers(1, 3), st.sampled_from(SIGNS)),
    anchors=lambda setting: [(2.0, 1, 1.0), (2.0, 1, -1.0)],
)
def flat(subject: Subject, setting: Setting, case: tuple[float, int, float]) -> bool:
    """One response with A = ±1, all tokens beyond the bound that matters: −(1 + ε_high) or 1 − ε_low."""
    times, length, sign = case
    low, high = (getattr(setting.like.surrogate, name) for name in ("low", "high"))
    batch = _level(setting, times * sign, length, sign)
    if not (high if sign > 0 else low):
        return False
    same_value(subject(batch), -(1.0 + high) if sign > 0 else 1.0 - low, setting, batch, "the loss")
    return True


@law(
    "the band reaches from 1 − ε_low to 1 + ε_high",
    source="GSPO section 5.1: left 3e-4, right 4e-4",
    otherwise="the bounds are elsewhere: swapped, of another size, or measured on another scale",
    needs={Claim.CLIP, Claim.LEVEL_RATIO},
    cases=lambda setting: st.tuples(
        st.sampled_from([0.8, 0.9, 0.97, 1.03, 1.1, 1.2]), st.integers(1, 2), st.sampled_from(SIGNS)
    ),
    anchors=lambda setting: [(0.9, 1, 1.0), (1.1, 1, 1.0), (0.9, 1, -1.0), (1.1, 1, -1.0)],
)
def band(subject: Subject, setting: Setting, case: tuple[float, int, float]) -> bool:
    """A response just inside a bound has a gradient, one just outside has none."""
    times, length, sign = case
    batch = _level(setting, times * sign, length, sign)
    distance = abs(times - 1.0) * min(abs(x) for x in setting.log_bounds)
    if distance <= 2 * subject.kink:
        return False
    found = subject(batch)
    side = "1 + ε_high" if sign > 0 else "1 − ε_low"
    what = f"whether a response at {times:g} times the bound {side} is live"
    allowed = found.noise * scale_of(setting, batch) * 4
    demand(float(np.abs(found.weight).sum() > max(allowed, 1e-6)), float(times < 1), 0.0, what, batch)
    return True


@law(
    "on a bound exactly, a unit is live",
    source="theory B6, B7: u is defined with ≤ and ≥; min and clip of frameworks give 0.75 or 1 of the gradient",
    otherwise="the subgradient at the bound is left to chance",
    needs={Claim.CLIP, Claim.EDGES, Claim.LEVEL_RATIO},
    cases=lambda setting: st.tuples(
        st.lists(st.sampled_from(SIGNS), min_size=1, max_size=3), st.sampled_from([1, 2, 4]), st.sampled_from(SIGNS)
    ),
    anchors=lambda setting: [([1.0], 1, 1.0), ([-1.0], 1, -1.0)],
)
def edge(subject: Subject, setting: Setting, case: tuple[list[float], int, float]) -> bool:
    """d = log(1 + ε_high) or log(1 − ε_low) on every token: ∂loss/∂logp = −A r · share for either sign of A.

    Lengths are powers of two: then the mean of equal numbers is that number to the last bit.
    """
    signs, length, side = case
    low, high = setting.log_bounds
    batch = Batch.of([[high if side > 0 else low] * length] * len(signs), signs)
    weight = -np.array(signs)[:, None] * math.exp(high if side > 0 else low) * np.ones((1, length))
    same_weight(subject(replace(batch, denominator=1.0)), weight * _share(setting, length), setting, batch, "the gradient")
    return True


def _share(setting: Setting, length: int) -> float:
    """A token's share of its response, before the common division."""
    return 1.0 / length if Claim.SEQUENCE_MEAN in setting.claims else 1.0


@law(
    "all tokens of a response are clipped together",
    source="GSPO eq. 10: one gate for each response; clipping token by token was Soup#744",
    otherwise="clips token by token",
    needs={Claim.CLIP, Claim.MEAN_RATIO},
    cases=lambda setting: batches(setting, rows=(1, 2), width=(2, 3), kinds=["spread", "beyond"], advantages=[1.0, -1.0]),
    anchors=lambda setting: [Batch.of([[3.0, -3.0]], [1.0]), Batch.of([[3.0, -3.0]], [-1.0])],
)
def together(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """With one advantage per response, the gradient is the same number at each of its tokens."""
    batch = batch.poisoned(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    found = subject(batch)
    count = np.maximum(1, batch.lengths)[:, None]
    mean = np.where(batch.mask, np.where(batch.mask, found.weight, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
    inside = found._replace(weight=np.where(batch.mask, found.weight, 0.0))
    same_weight(inside, mean, setting, batch, "the gradient", "the mean over each response's tokens is what the law says:")
    return bool((batch.mask.sum(axis=1) > 1).any())


@law(
    "a bad unit pays at most the ceiling",
    source="theory E2; D. Ye et al., arXiv 1912.09729, eq. 4",
    otherwise="the dual clip is ignored",
    needs={Claim.CEILING, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([1.5, 4.0]), st.integers(1, 3)),
    anchors=lambda setting: [(2.0, 1)],
)
def ceiling(subject: Subject, setting: Setting, case: tuple[float, int]) -> bool:
    """A = −1 and r beyond cap: loss cap, gradient 0."""
    times, length = case
    cap = float(getattr(setting.like.surrogate, "cap"))  # noqa: B009 - the claim says that it is there
    batch = Batch.of([[times * math.log(cap)] * length], [-1.0])
    found = subject(batch)
    same_value(found, cap, setting, batch, "the loss")
    zero(found, batch.mask, setting, batch, "the gradient")
    return True


@law(
    "clipping never raises the objective",
    source="theory E1: J_clip ≤ J_unclipped",
    otherwise="takes the maximum where the paper takes the minimum",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([-3.0, -1.5, 1.5, 3.0, 10.0]), st.sampled_from(SIGNS)),
    anchors=lambda setting: [(2.0, 1.0), (-2.0, -1.0)],
)
def pessimistic(subject: Subject, setting: Setting, case: tuple[float, float]) -> bool:
    """One response with A = ±1 and ratio r: the loss is at least −r A."""
    times, sign = case
    batch = _level(setting, times, 1, sign)
    unclipped = -math.exp(float(batch.d[0, 0])) * sign
    found = subject(batch)
    short = min(0.0, found.value - unclipped)
    note = f"the unclipped loss is {unclipped:.6g}, the clipped one {found.value:.6g}; lower by"
    demand(short, 0.0, rounding(found, batch) * abs(unclipped), "how far clipping lowers the loss", batch, note)
    return times * sign > 0


CLIP: list[Law] = [silent, live, flat, band, edge, together, ceiling, pessimistic]
