"""What a mutant is, and the correct pieces that mutants are made of, in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np

from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.kit.subject import Names
from gspo_core.objectives.clipped_surrogates import Clip, DualClip
from gspo_core.objectives.presets import GRPO, GSPO, GSPO_TOKEN

LOW, HIGH, CAP = 0.2, 0.3, 3.0
LIKE = replace(GSPO, surrogate=Clip(LOW, HIGH))
"""GSPO with a band that is wide enough to be seen by the naked eye, and not symmetric."""
LIKE_TOKEN = replace(GSPO_TOKEN, surrogate=Clip(LOW, HIGH))
LIKE_DUAL = replace(GSPO, surrogate=DualClip(LOW, HIGH, CAP))
LIKE_GRPO = replace(GRPO, surrogate=Clip(LOW, HIGH))

WITH_DENOMINATOR = Names(denominator="denominator")
WITH_KL = Names(ref_logp="ref_logp")
WITH_SAMPLER = Names(sampler_logp="sampler_logp")

A = Any
"""A NumPy array."""


class Kind(Enum):
    """What a mutant is a mutant of."""

    LOSS = "(logp, old_logp, advantage, mask) -> loss"
    PACKED = "(logp, old_logp, advantage, segment_ids, num_sequences) -> loss"
    ADVANTAGE = "(rewards, group_ids) -> advantages"
    SEQUENCE_FRACTION = "(logp, old_logp, advantage, mask) -> share of clipped responses"
    TOKEN_FRACTION = "(logp, old_logp, advantage, mask) -> share of clipped tokens"
    OBJECTIVE = "() -> an Objective with a word of its own"


@dataclass(frozen=True)
class Mutant:
    """A wrong loss, and the law that it must break."""

    loss: Callable[..., Any]
    law: str
    """The name of the law."""
    like: Any = LIKE
    """An Objective, or for advantages a Normaliser."""
    seen: str = ""
    """Where it was seen, if it was."""
    names: Names = field(default_factory=Names)
    claims: frozenset[Claim] = frozenset()
    kind: Kind = Kind.LOSS

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.loss.__name__)


def ratios(logp: A, old: A, mask: A) -> A:
    """[N, T] token log ratios, 0 where masked."""
    return np.where(mask, logp, 0.0) - np.where(mask, old, 0.0)


def size(mask: A) -> A:
    """[N] lengths, at least 1."""
    return np.maximum(mask.sum(axis=1), 1)


def log_s(logp: A, old: A, mask: A) -> A:
    """[N] mean log ratios."""
    return ratios(logp, old, mask).sum(axis=1) / size(mask)


def exp(x: A) -> A:
    """exp, continued along its tangent beyond 50."""
    return np.exp(np.minimum(x, 50.0)) * (1.0 + np.maximum(x - 50.0, 0.0))


def gain(x: A, a: A, low: float = LOW, high: float = HIGH) -> A:
    """min(r A, clip(r) A)."""
    return np.minimum(exp(x) * a, np.clip(exp(x), 1 - low, 1 + high) * a)


def mean(gains: A, mask: A, denominator: float | None = None) -> Any:
    """−Σ over non-empty responses / their number."""
    full = mask.any(axis=1)
    return -np.where(full, gains, 0.0).sum() / (denominator or max(1, full.sum()))


def token_mean(gains: A, mask: A) -> A:
    """[N] mean over each response's tokens."""
    return np.where(mask, gains, 0.0).sum(axis=1) / size(mask)


def column(a: A) -> A:
    """Advantages [N] or [N, T] as something that broadcasts over tokens."""
    return a if a.ndim == 2 else a[:, None]


def gspo(logp: A, old: A, a: A, mask: A, denominator: float | None = None) -> Any:
    """Eq. 5, right: what all mutants are near to."""
    return mean(gain(log_s(logp, old, mask), a), mask, denominator)


def gspo_weight(logp: A, old: A, a: A, mask: A) -> A:
    """[N, T] its gradient, right."""
    x = log_s(logp, old, mask)
    shut = ((a > 0) & (x > np.log1p(HIGH))) | ((a < 0) & (x < np.log1p(-LOW)))
    unit = np.where(shut, 0.0, -a * np.exp(np.minimum(x, 50.0))) / size(mask) / max(1, mask.any(axis=1).sum())
    return np.where(mask, unit[:, None], 0.0)


def right(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Value and gradient, right."""
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask))
