"""Batches as they go through `policy_loss` and `batch_metrics`, to be wrong in one way each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from support.inputs.metric_cases import on_layout

from gspo_core import GSPO, TIS, Objective, Padded, batch_metrics, group_metrics, merge, policy_loss, sampler_weight
from gspo_core.metrics import FindingKind, Metrics, sampler_metrics
from gspo_core.mismatch import Correction

N, T = 64, 1000
GROUPS = np.arange(N) // 8
FULL = np.ones((N, T), dtype=bool)
FITTING = 0.008
"""Token noise that makes log s ± 2.5e-4 at 1000 tokens: inside the paper's range."""


@dataclass(frozen=True)
class Situation:
    """What happened, and what must be said about it: these findings, in this order, and no other."""

    name: str
    metrics: Callable[[], Metrics]
    found: tuple[FindingKind, ...]
    gradient_is_zero: bool | None = None
    """Of the first finding."""
    objective: Objective | None = GSPO
    says: str = ""
    never_says: str = ""
    """Advice that would make it worse."""


def centred(seed: int = 0) -> np.ndarray:
    """Advantages whose sum is exactly 0."""
    half = np.abs(np.random.default_rng(seed).normal(size=N // 2)) + 0.1
    return np.stack([half, -half], axis=1).reshape(-1)


def ratios(scale: float, seed: int = 0, tokens: int = T) -> np.ndarray:
    """Token log ratios of independent noise, so that log s has the standard deviation scale / √tokens."""
    return scale * np.random.default_rng(seed).normal(size=(N, tokens))


def spread(tokens: int = T, seed: int = 7) -> np.ndarray:
    """Log-probs of sampled tokens as a language model has them: many near 0, some far below."""
    return -0.1 - np.random.default_rng(seed).gamma(0.5, 1.5, size=(N, tokens))


def poisoned(x: np.ndarray, value: float, place: tuple[int, int] = (3, 5)) -> np.ndarray:
    """A copy with one other number."""
    x = np.array(x)
    x[place] = value
    return x


def pair(logp: np.ndarray, old: np.ndarray, advantage: np.ndarray | None = None, objective: Objective = GSPO) -> Metrics:
    """Metrics of full rows of log-probs; what the loss makes of ∞ − ∞ is the situation's business."""
    advantage = centred()[: len(logp)] if advantage is None else advantage
    with np.errstate(invalid="ignore"):
        return on_layout(objective, logp, old, advantage, Padded(np.ones(logp.shape, dtype=bool)))


def batch(d: np.ndarray, advantage: np.ndarray, mask: np.ndarray = FULL, objective: Objective = GSPO) -> Metrics:
    """Metrics of a batch whose old log-probs are all −1, its groups included."""
    old = np.full(d.shape, -1.0)
    return merge(on_layout(objective, old + d, old, advantage, Padded(mask)), group_metrics(advantage, GROUPS[: len(d)]))


def on_policy_window() -> Metrics:
    """Four updates without old log-probs."""
    logp, layout = np.full((N, T), -1.0), Padded(FULL)
    loss = policy_loss(GSPO, logp, None, centred(), layout, on_policy=True)
    return merge(*[batch_metrics(GSPO, loss, logp, None, centred(), layout)] * 4)


def sampler(x: np.ndarray, correction: Correction = TIS, old: float | np.ndarray = -1.0) -> Metrics:
    """Of old_logp − sampler_logp = x, at tokens."""
    old = np.full(x.shape, old) if isinstance(old, float) else old
    return sampler_metrics(correction, old, old - x, Padded(np.ones(x.shape, dtype=bool)))


def corrected(correction: Correction, gap: np.ndarray, advantage: np.ndarray, groups: bool = True) -> Metrics:
    """A batch on policy whose advantages were weighed for a sampler that is `gap` nats below the trainer at each token."""
    old = np.full((N, T), -1.0)
    w = sampler_weight(correction, old, old - gap, Padded(FULL))
    parts = [
        on_layout(GSPO, old, old, advantage * w.weight, w.layout),
        sampler_metrics(correction, old, old - gap, Padded(FULL)),
    ]
    return merge(*parts, *([group_metrics(advantage, GROUPS)] if groups else []))


def masked(*others: Metrics, objective: Objective = GSPO) -> Metrics:
    """A batch whose mask is true nowhere, and other metrics."""
    return merge(on_layout(objective, *[FULL - 2.0] * 2, centred(), Padded(~FULL)), *others)


def ragged() -> np.ndarray:
    """Lengths from 50 to 1000."""
    return np.arange(T)[None, :] < np.linspace(50, 1000, N).astype(int)[:, None]
