"""The family of objectives in scalar Python: one function per method, one row at a time; no code shared with the core.

A row function gets the log ratios d of one response's tokens and their advantages, with the paper's numbers written into
it, and returns what the response adds to the sum before the common divisor. Weights are derived by hand (the derivative,
or the constant that the paper puts in front of ∇log π). Masked entries are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from support.oracles.loss import Rows, positions

from gspo_core.laws.kit.oracle import ScalarLoss


class Row(NamedTuple):
    """One response's contribution to J · divisor."""

    gains: list[float]
    """Terms of the value: one, or one per token."""
    weights: list[float]
    """On ∇log π of each token."""
    log_ratio: list[float]
    """One for a sequence ratio, else one per token."""
    silent: list[bool]
    """Likewise: an advantage, but no gradient."""


RowFunction = Callable[[list[float], list[float]], Row]
PairFunction = Callable[[list[tuple[float, float]], list[float]], Row]
"""Of (log π, log π_old) of each token in place of their differences."""


class Method(NamedTuple):
    """A row function, and what its sum is divided by."""

    row: RowFunction | PairFunction
    per_token: bool
    divisor: Callable[[list[int]], float]
    """From the lengths of all responses."""
    sees_pairs: bool = False


def responses(lengths: list[int]) -> float:
    """Non-empty responses."""
    return float(max(1, sum(n > 0 for n in lengths)))


def tokens(lengths: list[int]) -> float:
    """Tokens."""
    return float(max(1, sum(lengths)))


def clip_term(x: float, a: float, low: float, high: float) -> tuple[float, float, bool]:
    """(gain, weight, silent) of min(r a, clip(r) a) at log r = x."""
    r = math.exp(x)
    gain = min(r * a, min(max(r, 1 - low), 1 + high) * a)
    silent = (a > 0 and x > math.log1p(high)) or (a < 0 and x < math.log1p(-low))
    return gain, 0.0 if silent else r * a, silent


def _token_rows(term: Callable[[float, float], tuple[float, float, bool]], share: Callable[[int], float]) -> RowFunction:
    def row(d: list[float], a: list[float]) -> Row:
        terms = [term(x, y) for x, y in zip(d, a, strict=True)]
        s = share(len(d))
        return Row([g * s for g, _, _ in terms], [w * s for _, w, _ in terms], list(d), [z for _, _, z in terms])

    return row


def _mean_rows(low: float, high: float, length_weighted: bool = False, only_gate: bool = False) -> RowFunction:
    """GSPO, LUSPO and gate-only GSPO: one term in the mean log ratio."""

    def row(d: list[float], a: list[float]) -> Row:
        n, adv = len(d), a[0]
        mean = math.fsum(d) / n
        gain, weight, silent = clip_term(mean, adv, low, high)
        if only_gate:
            bounded = min(mean, math.log1p(high)) if adv > 0 else max(mean, math.log1p(-low))
            gain, weight = adv * (1 + bounded), 0.0 if silent else adv
        times = n if length_weighted else 1
        return Row([times * gain], [times * weight / n] * n, [mean], [silent])

    return row


def gspo_token(d: list[float], a: list[float]) -> Row:
    """s_i for every token, each with its own advantage."""
    n = len(d)
    mean = math.fsum(d) / n
    terms = [clip_term(mean, y, 3e-4, 4e-4) for y in a]
    return Row([g / n for g, _, _ in terms], [w / n for _, w, _ in terms], [mean] * n, [z for _, _, z in terms])


def gmpo(d: list[float], a: list[float]) -> Row:
    """exp of the mean of log ratios, each cut at 0.4 in the direction of A."""
    n, adv = len(d), a[0]
    cut = [min(x, 0.4) if adv > 0 else max(x, -0.4) for x in d] if adv else list(d)
    g = math.exp(math.fsum(cut) / n)
    weights = [adv * g / n if x == y else 0.0 for x, y in zip(d, cut, strict=True)]
    return Row([adv * g], weights, [math.fsum(cut) / n], [adv != 0 and not any(weights)])


def fspo(d: list[float], a: list[float]) -> Row:
    """min(rho A, clip(rho, e^-b, e^b) A), b = 0.03 sqrt(L)."""
    n, adv = len(d), a[0]
    total, b = math.fsum(d), 0.03 * math.sqrt(n)
    bounded = min(total, b) if adv > 0 else max(total, -b) if adv < 0 else total
    rho, live = math.exp(bounded), bounded == total
    return Row([rho * adv], [rho * adv * live] * n, [bounded], [adv != 0 and not live])


def vespo(d: list[float], a: list[float]) -> Row:
    """phi(rho) A on every token."""
    total = math.fsum(d)
    out = []
    for y in a:
        k, lam = (2.0, 3.0) if y >= 0 else (3.0, 2.0)
        out.append(y * math.exp(k * total + lam * (1.0 - math.exp(total))))
    return Row(out, out, [total] * len(d), [y != 0 and w == 0 for y, w in zip(a, out, strict=True)])


def sapo_term(x: float, a: float) -> tuple[float, float, bool]:
    """(4/tau) sigmoid(tau (w - 1)) and its derivative times w, from 4 sigma (1 - sigma) = sech^2(z/2)."""
    tau = 1.0 if a > 0 else 1.05
    w = math.exp(x)
    e = math.exp(-abs(tau * (w - 1)))
    sigma = 1 / (1 + e) if w >= 1 else e / (1 + e)
    # cosh overflows beyond 710; sech² is below 1e-300 there.
    half = abs(tau * (w - 1) / 2)
    sech_squared = 0.0 if half > 372.5 else (1 / math.cosh(half)) ** 2
    return a * 4 / tau * sigma, a * w * sech_squared, a != 0 and sech_squared * w == 0


def cispo_term(x: float, a: float) -> tuple[float, float, bool]:
    """sg[min(w, 5)] A."""
    weight = min(math.exp(x), 5.0) * a
    return weight, weight, a != 0 and weight == 0


def aspo_term(x: float, a: float) -> tuple[float, float, bool]:
    """1/w for A > 0, w for A < 0, at most 3; nothing beyond GRPO's bounds."""
    w = math.exp(x)
    if a > 0:
        return (a / 1.2, 0.0, True) if w > 1.2 else (a * min(1 / w, 3.0), a * min(1 / w, 3.0), False)
    if a < 0:
        return (a * 0.8, 0.0, True) if w < 0.8 else (a * min(w, 3.0), a * min(w, 3.0), False)
    return 0.0, 0.0, False


def dual_clip_term(x: float, a: float) -> tuple[float, float, bool]:
    """max(min(r A, clip(r) A), 3 A) for A < 0."""
    gain, weight, silent = clip_term(x, a, 0.2, 0.2)
    if a < 0 and math.exp(x) > 3:
        return 3 * a, 0.0, True
    return gain, weight, silent


def deepseek(d: list[float], a: list[float]) -> Row:
    """GRPO times 1[not (A < 0 and mean log(old/new) > 0.5)]."""
    row = _token_rows(lambda x, y: clip_term(x, y, 0.2, 0.2), lambda n: 1 / n)(d, a)
    kept = [not (y < 0 and math.fsum(-x for x in d) / len(d) > 0.5) for y in a]
    keep = [float(k) for k in kept]
    return Row(
        [g * k for g, k in zip(row.gains, keep, strict=True)],
        [w * k for w, k in zip(row.weights, keep, strict=True)],
        row.log_ratio,
        [s or not k for s, k in zip(row.silent, kept, strict=True)],
    )


def dppo(pairs: list[tuple[float, float]], a: list[float]) -> Row:
    """sg[min(w, 20)] A where p - p_old <= 0.15 (A > 0) or >= -0.15 (A < 0)."""
    weights, silent = [], []
    for (new, old), y in zip(pairs, a, strict=True):
        moved = math.exp(min(new, 0.0)) - math.exp(min(old, 0.0))
        shut = (y > 0 and moved > 0.15) or (y < 0 and moved < -0.15)
        weights.append(0.0 if shut else min(math.exp(new - old), 20.0) * y)
        silent.append(shut)
    return Row(weights, weights, [new - old for new, old in pairs], silent)


def ipo(pairs: list[tuple[float, float]], a: list[float]) -> Row:
    """w A where |p - p_old| <= 0.1."""
    far = [abs(math.exp(min(new, 0.0)) - math.exp(min(old, 0.0))) > 0.1 for new, old in pairs]
    weights = [0.0 if z else math.exp(new - old) * y for (new, old), y, z in zip(pairs, a, far, strict=True)]
    return Row(weights, weights, [new - old for new, old in pairs], [z and y != 0 for z, y in zip(far, a, strict=True)])


def _grpo(low: float, high: float, per_length: bool) -> RowFunction:
    return _token_rows(lambda x, y: clip_term(x, y, low, high), (lambda n: 1 / n) if per_length else (lambda _: 1.0))


METHODS: dict[str, Method] = {
    "GSPO": Method(_mean_rows(3e-4, 4e-4), False, responses),
    "GSPO_TOKEN": Method(gspo_token, True, responses),
    "GATE_ONLY_GSPO": Method(_mean_rows(3e-4, 4e-4, only_gate=True), False, responses),
    "LUSPO": Method(_mean_rows(2e-3, 2.5e-3, length_weighted=True), False, responses),
    "GMPO": Method(gmpo, False, responses),
    "FSPO": Method(fspo, False, responses),
    "VESPO": Method(vespo, True, tokens),
    "GRPO": Method(_grpo(0.2, 0.2, True), True, responses),
    "DR_GRPO": Method(_grpo(0.2, 0.2, False), True, lambda lengths: 3000 * responses(lengths)),
    "DAPO": Method(_grpo(0.2, 0.28, False), True, tokens),
    "BNPO": Method(_grpo(0.2, 0.2, False), True, tokens),
    "CISPO": Method(_token_rows(cispo_term, lambda _: 1.0), True, tokens),
    "SAPO": Method(_token_rows(sapo_term, lambda n: 1 / n), True, responses),
    "ASPO": Method(_token_rows(aspo_term, lambda _: 1.0), True, tokens),
    "DEEPSEEK_V3_2": Method(deepseek, True, responses),
    "DPPO": Method(dppo, True, tokens, sees_pairs=True),
    "IPO": Method(ipo, True, tokens, sees_pairs=True),
    "DUAL_CLIP": Method(_token_rows(dual_clip_term, lambda n: 1 / n), True, responses),
}


def judge(
    method: Method, logp: Rows, old: Rows, advantage: Rows, mask: Sequence[Sequence[bool]], denominator: float | None = None
) -> ScalarLoss:
    """The whole batch; `advantage` per token."""
    lengths = [len(positions(row)) for row in mask]
    n = method.divisor(lengths) if denominator is None else denominator
    terms: list[float] = []
    weight = [[0.0] * len(row) for row in mask]
    ratios: list = [[0.0] * len(row) for row in mask] if method.per_token else [0.0] * len(mask)
    silent: list = [[False] * len(row) for row in mask] if method.per_token else [False] * len(mask)
    for i, mask_row in enumerate(mask):
        where = positions(mask_row)
        if not where:
            continue
        pairs: list[Any] = [(logp[i][t], old[i][t]) for t in where]
        row = method.row(pairs if method.sees_pairs else [x - y for x, y in pairs], [advantage[i][t] for t in where])
        terms += [-g / n for g in row.gains]
        for j, t in enumerate(where):
            weight[i][t] = -row.weights[j] / n
            if method.per_token:
                ratios[i][t], silent[i][t] = row.log_ratio[j], bool(row.silent[j])
        if not method.per_token:
            ratios[i], silent[i] = row.log_ratio[0], bool(row.silent[0])
    return ScalarLoss(math.fsum(terms), math.fsum(map(abs, terms)), weight, ratios, silent)
