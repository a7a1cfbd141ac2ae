"""KL estimators in scalar Python, and exact divergences of a small policy; no code shared with what it judges.

Estimators: J. Schulman, 2020, "Approximating KL Divergence"; DeepSeek-V3.2, arXiv 2512.02556, eq. 7.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Rows = Sequence[Sequence[float]]


def k3(x: float) -> float:
    """eˣ − 1 − x, as its series where the terms would cancel."""
    if abs(x) > 1e-2:
        return math.exp(x) - 1.0 - x
    return math.fsum(x**n / math.factorial(n) for n in range(2, 9))


def estimate(name: str, x: float, d: float) -> tuple[float, float]:
    """(value, ∂value/∂log π) with x = log π_ref − log π and d = log π − log π_old."""
    return {
        "K1": (-x, 1.0),
        "K2": (x * x / 2.0, -x),
        "SequenceK2": (x * x / 2.0, -x),
        "KAbs": (abs(x), float((x < 0) - (x > 0))),
        "K3": (k3(x), -math.expm1(x)),
        "TokenKL": (math.exp(d) * k3(x), -math.exp(d) * x),
        "SequenceKL": (math.exp(d) * k3(x), -math.exp(d) * x),
    }[name]


class Penalty(NamedTuple):
    """What a KL term must be."""

    value: float
    scale: float
    """Σ |term| of the value."""
    weight: list[list[float]]


def penalty(name: str, logp: Rows, ref: Rows, old: Rows, mask: Sequence[Sequence[bool]], over_tokens: bool) -> Penalty:
    """Mean over sequences of means over tokens (of whole sequences for SequenceKL and SequenceK2), or mean over all tokens."""
    lengths = [sum(row) for row in mask]
    count = max(1, sum(lengths) if over_tokens else sum(length > 0 for length in lengths))
    terms, weight = [], []
    for i, row in enumerate(mask):
        tokens = [t for t, ok in enumerate(row) if ok]
        grads = [0.0] * len(row)
        if name.startswith("Sequence") and tokens:
            x, d = (math.fsum(a[i][t] - b[i][t] for t in tokens) for a, b in ((ref, logp), (logp, old)))
            value, slope = estimate(name, x, d)
            terms.append(value / count)
            for t in tokens:
                grads[t] = slope / count
        if not name.startswith("Sequence"):
            share = count if over_tokens else count * len(tokens)
            for t in tokens:
                value, slope = estimate(name, ref[i][t] - logp[i][t], logp[i][t] - old[i][t])
                terms.append(value / share)
                grads[t] = slope / share
        weight.append(grads)
    return Penalty(math.fsum(terms), math.fsum(map(abs, terms)), weight)


# A policy over three tokens, of which 2 ends the response; at most two tokens long: seven responses.
RESPONSES: list[tuple[int, ...]] = [(2,), *itertools.product((0, 1), (0, 1, 2))]
Logits = np.ndarray
"""[3, 3]: the logits of the first token, and of the second one after 0 and after 1."""


def rows_of(response: tuple[int, ...]) -> list[int]:
    """Which distribution each token is drawn from."""
    return [0, *(1 + token for token in response[:-1])]


def probabilities(logits: Logits) -> np.ndarray:
    """[3, 3] softmax of each row."""
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True)


def log_probs(logits: Logits, response: tuple[int, ...]) -> list[float]:
    """Of each token."""
    p = probabilities(logits)
    return [math.log(p[row, token]) for row, token in zip(rows_of(response), response, strict=True)]


def scores(logits: Logits, response: tuple[int, ...]) -> np.ndarray:
    """[tokens, 3, 3] ∂ log-prob of each token / ∂logits."""
    p, out = probabilities(logits), np.zeros((len(response), 3, 3))
    for t, (row, token) in enumerate(zip(rows_of(response), response, strict=True)):
        out[t, row] = np.eye(3)[token] - p[row]
    return out


def chance(logits: Logits, response: tuple[int, ...]) -> float:
    """π(response)."""
    return math.exp(math.fsum(log_probs(logits, response)))


def divergence(logits: Logits, ref: Logits) -> float:
    """KL(π‖π_ref) over whole responses."""
    pairs = [(chance(logits, y), math.fsum(log_probs(logits, y)) - math.fsum(log_probs(ref, y))) for y in RESPONSES]
    return math.fsum(p * gap for p, gap in pairs)


def next_token_distance(logits: Logits, ref: Logits, prefixes: Logits) -> float:
    """Σ_t E Σ_v |π − π_ref| of the next token, over prefixes drawn from a policy of their own."""
    rows = np.abs(probabilities(logits) - probabilities(ref)).sum(axis=1)
    first = probabilities(prefixes)[0]
    return float(rows[0] + first[0] * rows[1] + first[1] * rows[2])


def next_token_divergence(logits: Logits, ref: Logits, prefixes: Logits, reverse: bool = True) -> float:
    """Σ_t E KL(π‖π_ref) of the next token (or the other way round), over prefixes drawn from a policy of their own."""
    p, q, first = probabilities(logits), probabilities(ref), probabilities(prefixes)[0]
    a, b = (p, q) if reverse else (q, p)
    rows = (a * np.log(a / b)).sum(axis=1)
    return float(rows[0] + first[0] * rows[1] + first[1] * rows[2])


def gradient(f, logits: Logits, h: float = 2.0**-5) -> np.ndarray:
    """∂f/∂logits by eighth-order central differences: exact to 1e-12 for functions as smooth as these; for one with corners, h
    is to be small enough to meet none."""
    out = np.zeros((3, 3))
    stencil = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    for index in np.ndindex(3, 3):
        unit = np.zeros((3, 3))
        unit[index] = h
        out[index] = math.fsum(c * (f(logits + k * unit) - f(logits - k * unit)) for k, c in stencil.items()) / h
    return out
