"""The clip: which units have a gradient, where the clip range ends, and the value beyond it."""

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
    """One response, all tokens with a log ratio of `times` the log bound on that side."""
    low, high = setting.log_bounds
    return Batch.of([[times * high if times > 0 else -times * low] * length], [advantage])


@law(
    "a clipped unit has no gradient",
    source="docs/theory.md, E2; GSPO eq. 5",
    otherwise="units beyond the clip range still change the policy",
    needs={Claim.CLIP, Claim.KNOWN_FORMULA},
    cases=lambda setting: batches(setting, kinds=["level", "spread", "beyond", "equal"], advantages=[1.0, -1.0, 2.0]),
    anchors=lambda setting: [_level(setting, 2.0, 1, 1.0), _level(setting, -2.0, 1, -1.0)],
)
def silent(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """No gradient for A > 0 with r > 1 + ε_high, and for A < 0 with r < 1 − ε_low."""
    if not setting.is_clear(batch, subject.kink):
        return False
    clipped = np.array(setting.expected(batch).clipped, dtype=bool)
    where = batch.mask & (clipped if setting.like.ratio.per_token else clipped[:, None])
    zero(subject(batch.with_padding(0.0)), where, setting, batch, "the gradient of clipped units")
    return bool(where.any())


@law(
    "an unclipped unit has a gradient, however far its ratio is from 1",
    source="docs/theory.md, E1 and E2: for each sign of A only one bound matters",
    otherwise="units that should learn have no gradient: the clip is on the wrong side, or on both, or an overflow guard acts",
    needs={Claim.CLIP, Claim.KNOWN_FORMULA},
    cases=lambda setting: batches(setting, kinds=["level", "spread", "beyond", "equal"], advantages=[1.0, -1.0, 2.0]),
    anchors=lambda setting: [_level(setting, 2.0, 1, -1.0), _level(setting, -2.0, 1, 1.0)],
)
def live(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """∂loss/∂logp = −A r · share for A > 0 with r ≤ 1 + ε_high, and for A < 0 with r ≥ 1 − ε_low."""
    if not setting.is_clear(batch, subject.kink):
        return False
    expected = np.array(setting.expected(batch).weight)
    found = subject(batch.with_padding(0.0))
    chosen = found._replace(weight=np.where(expected != 0, found.weight, 0.0))
    same_weight(chosen, expected, setting, batch, "the gradient of unclipped units")
    return bool(expected.any())


@law(
    "beyond the clip range the loss stays at the value of the bound",
    source="docs/theory.md, E1: A min(r, 1 + ε_high) for A > 0, A max(r, 1 − ε_low) for A < 0",
    otherwise="the loss of a clipped unit is not the constant at the bound",
    needs={Claim.CLIP, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([1.5, 3.0, 10.0]), st.integers(1, 3), st.sampled_from(SIGNS)),
    anchors=lambda setting: [(2.0, 1, 1.0), (2.0, 1, -1.0)],
)
def flat(subject: Subject, setting: Setting, case: tuple[float, int, float]) -> bool:
    """One response with A = ±1, all tokens beyond the bound that matters: the loss is −(1 + ε_high) or 1 − ε_low."""
    times, length, sign = case
    low, high = (getattr(setting.like.surrogate, name) for name in ("low", "high"))
    batch = _level(setting, times * sign, length, sign)
    if not (high if sign > 0 else low):
        return False
    same_value(subject(batch), -(1.0 + high) if sign > 0 else 1.0 - low, setting, batch, "the loss")
    return True


@law(
    "the clip range reaches from 1 − ε_low to 1 + ε_high",
    source="GSPO section 5.1: left 3e-4, right 4e-4",
    otherwise="the bounds are different: swapped, of another size, or applied to another quantity than the ratio",
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
    what = f"whether a response at {times:g} times the bound {side} has a gradient (1: yes, 0: no)"
    allowed = found.noise * scale_of(setting, batch) * 4
    demand(float(np.abs(found.weight).sum() > max(allowed, 1e-6)), float(times < 1), 0.0, what, batch)
    return True


@law(
    "exactly on a bound a unit has a gradient",
    source="docs/theory.md, B6 and B7: the bounds are included; autodiff of min and clip gives 0.75 or 1 of the gradient",
    otherwise="the gradient exactly on a bound depends on the autodiff rule of the library",
    needs={Claim.CLIP, Claim.EDGES, Claim.LEVEL_RATIO},
    cases=lambda setting: st.tuples(
        st.lists(st.sampled_from(SIGNS), min_size=1, max_size=3), st.sampled_from([1, 2, 4]), st.sampled_from(SIGNS)
    ),
    anchors=lambda setting: [([1.0], 1, 1.0), ([-1.0], 1, -1.0)],
)
def edge(subject: Subject, setting: Setting, case: tuple[list[float], int, float]) -> bool:
    """d = log(1 + ε_high) or log(1 − ε_low) on every token: ∂loss/∂logp = −A r · share for either sign of A.

    Lengths are powers of two, for which the mean of equal numbers is exact.
    """
    signs, length, side = case
    low, high = setting.log_bounds
    batch = Batch.of([[high if side > 0 else low] * length] * len(signs), signs)
    weight = -np.array(signs)[:, None] * math.exp(high if side > 0 else low) * np.ones((1, length))
    same_weight(subject(replace(batch, denominator=1.0)), weight * _share(setting, length), setting, batch, "the gradient")
    return True


def _share(setting: Setting, length: int) -> float:
    """A token's share in its response, before the division by the count."""
    return 1.0 / length if Claim.SEQUENCE_MEAN in setting.claims else 1.0


@law(
    "all tokens of a response are clipped together",
    source="GSPO eq. 10: one clip decision per response; clipping token by token: Soup#744",
    otherwise="the clip decides token by token",
    needs={Claim.CLIP, Claim.MEAN_RATIO},
    cases=lambda setting: batches(setting, rows=(1, 2), width=(2, 3), kinds=["spread", "beyond"], advantages=[1.0, -1.0]),
    anchors=lambda setting: [Batch.of([[3.0, -3.0]], [1.0]), Batch.of([[3.0, -3.0]], [-1.0])],
)
def together(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """With one advantage per response, the gradient is the same number at each of its tokens."""
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    found = subject(batch)
    count = np.maximum(1, batch.lengths)[:, None]
    mean = np.where(batch.mask, np.where(batch.mask, found.weight, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
    inside = found._replace(weight=np.where(batch.mask, found.weight, 0.0))
    same_weight(inside, mean, setting, batch, "the gradient", "required: the mean over each response's tokens")
    return bool((batch.mask.sum(axis=1) > 1).any())


@law(
    "with a negative advantage the loss is at most the cap of the dual clip",
    source="docs/theory.md, E2; D. Ye et al., arXiv 1912.09729, eq. 4",
    otherwise="the dual clip has no effect",
    needs={Claim.CEILING, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([1.5, 4.0]), st.integers(1, 3)),
    anchors=lambda setting: [(2.0, 1)],
)
def ceiling(subject: Subject, setting: Setting, case: tuple[float, int]) -> bool:
    """A = −1 and r > cap: the loss is cap, the gradient 0."""
    times, length = case
    cap = float(getattr(setting.like.surrogate, "cap"))  # noqa: B009 - the claim CEILING implies it
    batch = Batch.of([[times * math.log(cap)] * length], [-1.0])
    found = subject(batch)
    same_value(found, cap, setting, batch, "the loss")
    zero(found, batch.mask, setting, batch, "the gradient")
    return True


@law(
    "clipping never raises the objective",
    source="docs/theory.md, E1: J_clip ≤ J_unclipped",
    otherwise="the loss takes the maximum of the two gains where the paper takes the minimum",
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
    note = f"the unclipped loss is {unclipped:.6g}, the clipped one {found.value:.6g}; required: not below it"
    demand(short, 0.0, rounding(found, batch) * abs(unclipped), "the change of the loss by clipping, if below 0", batch, note)
    return times * sign > 0


CLIP: list[Law] = [silent, live, flat, band, edge, together, ceiling, pessimistic]
