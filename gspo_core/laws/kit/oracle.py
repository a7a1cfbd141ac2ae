"""Objectives in scalar Python: lists, loops and `math`, float64; no code shared with the objectives themselves.

One response at a time: gate, log ratio, gain and slope of each unit, and the share of the slope that each token gets. Slopes
are derived by hand, masked entries are never read, and N counts the non-empty responses. The classes of an objective are used
for their parameters only. A surrogate or a gate that has no scalar formula here is evaluated itself, for one unit or one
response at a time: everything around its formula is then checked, and `assumptions` names what is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gspo_core.layouts.padded import Padded
from gspo_core.objectives import clipped_surrogates, gates, held_weights, ratios, reductions, regions, soft_surrogates
from gspo_core.objectives.loss import Objective

Rows = Sequence[Sequence[float]]
Masks = Sequence[Sequence[bool]]


class Term(NamedTuple):
    """One unit of the objective."""

    gain: float
    slope: float
    """∂gain/∂log ratio, or the constant that the paper puts there."""


class ScalarLoss(NamedTuple):
    """The correct loss. Units are sequences, or tokens (0 or False where masked)."""

    value: float
    scale: float
    """Σ |term| of the value. The rounding error of the value is proportional to it."""
    weight: list[list[float]]
    """∂value/∂logp."""
    log_ratio: list[Any]
    clipped: list[Any]
    """True for units with an advantage and no gradient."""


def _exp(x: float) -> float:
    """eˣ, infinite where a float cannot hold it."""
    return math.exp(x) if x < 709.0 else math.inf


def clip_term(s: Any, x: float, a: float) -> Term:
    """min(r A, clip(r) A), as written; exactly on the bound the slope is that of the inside."""
    r = _exp(x)
    shut = (a > 0 and x > math.log1p(s.high)) or (a < 0 and x < math.log1p(-s.low))
    return Term(min(r * a, min(max(r, 1 - s.low), 1 + s.high) * a), 0.0 if shut else r * a)


def _dual(s: Any, x: float, a: float) -> Term:
    return Term(s.cap * a, 0.0) if a < 0 and x > math.log(s.cap) else clip_term(s, x, a)


def _gate_only(s: Any, x: float, a: float) -> Term:
    bounded = min(x, math.log1p(s.high)) if a > 0 else max(x, math.log1p(-s.low)) if a < 0 else x
    return Term(a * (1 + bounded), a if bounded == x else 0.0)


def _soft(s: Any, x: float, a: float) -> Term:
    tau, w = (s.tau_neg if a < 0 else s.tau_pos), _exp(x)
    e = _exp(-abs(tau * (w - 1)))
    sigma = 1 / (1 + e) if w >= 1 else e / (1 + e)
    half = abs(tau * (w - 1) / 2)
    return Term(a * 4 / tau * sigma, a * w * (0.0 if half > 372.5 else 1 / math.cosh(half) ** 2))


def _truncated(s: Any, x: float, a: float) -> Term:
    weight = a * max(min(_exp(x), s.cap), s.floor)
    return Term(weight, weight)


def _reciprocal(s: Any, x: float, a: float) -> Term:
    w = _exp(x)
    if a > 0:
        weight = a * min(1 / w, s.cap)
        return Term(a / (1 + s.high), 0.0) if w > 1 + s.high else Term(weight, weight)
    weight = a * min(w, s.cap)
    return Term(a * (1 - s.low), 0.0) if a < 0 and w < 1 - s.low else Term(weight, weight)


def _gamma(s: Any, x: float, a: float) -> Term:
    k, lam = (s.k_pos, s.lam_pos) if a >= 0 else (s.k_neg, s.lam_neg)
    weight = a * _exp(k * x + lam * (1 - _exp(x)))
    return Term(weight, weight)


def _band_weight(s: Any, x: float, a: float) -> Term:
    weight = a * _exp(x) if s.floor <= _exp(x) <= s.cap else 0.0
    return Term(weight, weight)


def _tapered(s: Any, x: float, a: float) -> Term:
    weight = a if a > 0 else a * min(_exp(x), s.cap)
    return Term(weight, weight)


def _unknown_surrogate(s: Any, x: float, a: float) -> Term:
    """A surrogate without a scalar formula, evaluated for one unit."""
    found = s(np, np.array([x]), np.array([a]))
    return Term(float(found.value[0]), float(found.slope[0]))


TERMS: dict[type, Callable[[Any, float, float], Term]] = {
    clipped_surrogates.Clip: clip_term,
    clipped_surrogates.DualClip: _dual,
    clipped_surrogates.GateOnly: _gate_only,
    clipped_surrogates.Unclipped: lambda s, x, a: Term(_exp(x) * a, _exp(x) * a),
    soft_surrogates.SoftGate: _soft,
    soft_surrogates.TruncatedWeight: _truncated,
    soft_surrogates.ReciprocalWeight: _reciprocal,
    soft_surrogates.GammaWeight: _gamma,
    held_weights.BandWeight: _band_weight,
    held_weights.TaperedWeight: _tapered,
}


class Response(NamedTuple):
    """One response before a gate."""

    d: list[float]
    a: list[float]
    pairs: list[tuple[float, float]]
    """(log π, log π_old) of each token."""
    per_token: bool
    """Whether a unit is a token."""


class GatedResponse(NamedTuple):
    """One response after a gate."""

    d: list[float]
    a: list[float]
    open: Sequence[float]
    """∂(d after the gate)/∂(d before it), True for 1."""


def _token_clip(g: Any, y: Response) -> GatedResponse:
    cut = [min(x, g.high) if a > 0 else max(x, -g.low) if a < 0 else x for x, a in zip(y.d, y.a, strict=True)]
    return GatedResponse(cut, y.a, [x == z for x, z in zip(y.d, cut, strict=True)])


def _band(g: Any, y: Response) -> GatedResponse:
    mean, bound = math.fsum(y.d) / len(y.d), g.width * len(y.d) ** (g.length_power - 1)
    shut = [(a > 0 and mean > bound) or (a < 0 and mean < -bound) for a in y.a]
    edge = [bound if a > 0 else -bound for a in y.a]
    return GatedResponse([e if z else x for x, e, z in zip(y.d, edge, shut, strict=True)], y.a, [not z for z in shut])


def _off_policy(g: Any, y: Response) -> GatedResponse:
    stale = math.fsum(y.d) / len(y.d) < -g.delta
    return GatedResponse(y.d, [0.0 if a < 0 and stale else a for a in y.a], [True] * len(y.d))


def _total_variation(g: Any, y: Response) -> GatedResponse:
    moved = [_exp(min(x, 0.0)) - _exp(min(old, 0.0)) for x, old in y.pairs]
    return _inside(g, y, [1 if m > g.high else -1 if m < -g.low else 0 for m in moved])


def _binary_kl(g: Any, y: Response) -> GatedResponse:
    sides = []
    for q, p in ((_exp(min(x, 0.0)), _exp(min(old, 0.0))) for x, old in y.pairs):
        terms = [(u, v) for u, v in ((p, q), (1 - p, 1 - q)) if u > 0]
        kl = math.fsum(math.inf if v == 0 else u * math.log(u / v) for u, v in terms)
        sides.append(0 if kl <= (g.high if q > p else g.low) else 1 if q > p else -1)
    return _inside(g, y, sides)


def _inside(g: Any, y: Response, sides: list[int]) -> GatedResponse:
    """Without the tokens above (1) and below (−1) a region: those that their advantage pushes outwards, or all."""
    shut = [side != 0 and (g.either_side or side * a > 0) for side, a in zip(sides, y.a, strict=True)]
    unmoved, silent = ([0.0 if z else x for x, z in zip(xs, shut, strict=True)] for xs in (y.d, y.a))
    opened = [not z for z in shut]
    return GatedResponse(y.d, silent, opened) if y.per_token else GatedResponse(unmoved, y.a, opened)


def _unknown_gate(g: Any, y: Response) -> GatedResponse:
    """A gate without a scalar formula, evaluated for one response."""
    more, n = {}, len(y.d)
    if getattr(g, "sees_log_probs", False):
        more = dict(zip(("logp", "old_logp"), np.array(y.pairs).T[:, None, :], strict=True))
    advantage = np.array([y.a] if y.per_token else y.a[:1])
    gated = g(np.array([y.d]), advantage, Padded(np.ones((1, n), dtype=bool)), y.per_token, **more)
    return GatedResponse(gated.d[0].tolist(), np.ravel(gated.advantage).tolist(), gated.open[0].tolist())


GATES: dict[type, Callable[[Any, Response], GatedResponse]] = {
    type(None): lambda _, y: GatedResponse(y.d, y.a, [True] * len(y.d)),
    gates.TokenClip: _token_clip,
    gates.Band: _band,
    gates.OffPolicyMask: _off_policy,
    regions.TotalVariation: _total_variation,
    regions.BinaryKL: _binary_kl,
}

# (log ratio of each unit, share of a unit's slope that each token gets); one unit, or one per token.
RATIOS: dict[type, Callable[[list[float]], tuple[list[float], float]]] = {
    ratios.Token: lambda d: (list(d), 1.0),
    ratios.Sequence: lambda d: ([math.fsum(d) / len(d)], 1.0 / len(d)),
    ratios.SequenceToken: lambda d: ([math.fsum(d) / len(d)] * len(d), 1.0),
    ratios.Product: lambda d: ([math.fsum(d)], 1.0),
    ratios.ProductToken: lambda d: ([math.fsum(d)] * len(d), 1.0),
}
REDUCTIONS = (reductions.SequenceMean, reductions.TokenMean, reductions.FixedLength)


def is_known(objective: Objective) -> bool:
    """Whether the objective's ratio and reduction have scalar formulas; surrogates and gates need none."""
    return type(objective.ratio) in RATIOS and isinstance(objective.reduction, REDUCTIONS)


def unknown_parts(objective: Objective) -> list[Any]:
    """The objective's surrogate and gate, those of the two that have no scalar formula."""
    parts = ((objective.surrogate, TERMS), (objective.gate, GATES))
    return [part for part, known in parts if type(part) not in known]


def assumptions(objective: Objective) -> tuple[str, ...]:
    """Limits of the laws for this objective, one sentence each; empty if all its parts have scalar formulas."""
    if not is_known(objective):
        named = f"{type(objective.ratio).__name__} with {type(objective.reduction).__name__}"
        return (
            f"{named} has no scalar formula: its values are compared with each other, and its gradient with finite differences",
        )
    return tuple(map(_assumption, unknown_parts(objective)))


def _assumption(part: Any) -> str:
    name = type(part).__name__
    if not hasattr(part, "exact"):
        return f"whether {name} is the intended gate: its own code served as its formula, one response at a time"
    slope = (
        "its slope was compared with differences of its gain" if part.exact else "so was its slope, which is declared not exact"
    )
    return f"whether {name} is the intended gain: its own code served as its formula, one unit at a time; {slope}"


def count(objective: Objective, mask: Masks) -> float:
    """The batch's own denominator, at least 1."""
    lengths = [sum(map(bool, row)) for row in mask]
    filled, reduction = sum(n > 0 for n in lengths), objective.reduction
    if isinstance(reduction, reductions.TokenMean):
        return float(max(1, sum(lengths)))
    return float(max(1, filled * reduction.length if isinstance(reduction, reductions.FixedLength) else filled))


def scalar_loss(
    objective: Objective, logp: Rows, old: Rows, advantage: Rows, mask: Masks, denominator: float | None = None
) -> ScalarLoss:
    """The objective on a batch; `advantage` per token (a sequence ratio reads the first one)."""
    n = count(objective, mask) if denominator is None else denominator
    per_token, terms = objective.ratio.per_token, []
    weight = [[0.0] * len(row) for row in mask]
    log_ratio: list[Any] = [[0.0] * len(row) if per_token else 0.0 for row in mask]
    clipped: list[Any] = [[False] * len(row) if per_token else False for row in mask]
    for i, row in enumerate(mask):
        where = [t for t, is_token in enumerate(row) if is_token]
        if not where:
            continue
        a = [advantage[i][t] for t in where]
        pairs = [(logp[i][t], old[i][t]) for t in where]
        response = Response([x - y for x, y in pairs], a, pairs, per_token)
        gated = GATES.get(type(objective.gate), _unknown_gate)(objective.gate, response)
        units, share = RATIOS[type(objective.ratio)](gated.d)
        term_of = TERMS.get(type(objective.surrogate), _unknown_surrogate)
        found = [term_of(objective.surrogate, x, y) for x, y in zip(units, gated.a, strict=False)]
        size = _size(objective, len(where)) / n
        terms += [-term.gain * size for term in found]
        for j, t in enumerate(where):
            term = found[j if per_token else 0]
            weight[i][t] = -term.slope * share * size * gated.open[j] if gated.open[j] else 0.0
            if per_token:
                log_ratio[i][t], clipped[i][t] = units[j], a[j] != 0 and weight[i][t] == 0
        if not per_token:
            log_ratio[i], clipped[i] = units[0], a[0] != 0 and not any(weight[i])
    return ScalarLoss(math.fsum(terms), math.fsum(map(abs, terms)), weight, log_ratio, clipped)


def _size(objective: Objective, length: int) -> float:
    """A unit's weight in the sum, before the division by the count."""
    if isinstance(objective.reduction, reductions.SequenceMean):
        return 1.0 / length if objective.ratio.per_token else 1.0
    return 1.0 if objective.ratio.per_token else float(length)
