"""The class Mutant, and the correct building blocks of mutants in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np

from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.names import Names
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.objectives.clipped_surrogates import DualClip
from gspo_core.objectives.presets import GRPO, GSPO, GSPO_TOKEN

LOW, HIGH, CAP = 0.2, 0.3, 3.0
LIKE = GSPO.with_clip(LOW, HIGH)
"""GSPO with a clip range that is wide, so that numbers are easy to read, and not symmetric."""
LIKE_TOKEN = GSPO_TOKEN.with_clip(LOW, HIGH)
LIKE_DUAL = replace(GSPO, surrogate=DualClip(LOW, HIGH, CAP))
LIKE_GRPO = GRPO.with_clip(LOW, HIGH)

WITH_DENOMINATOR = Names(denominator="denominator")
WITH_KL = Names(ref_logp="ref_logp")
WITH_SAMPLER = Names(sampler_logp="sampler_logp")

A = Any
"""A NumPy array."""


class MutantKind(Enum):
    """The kind of function that a mutant is, by its signature."""

    LOSS = "(logp, old_logp, advantage, mask) -> loss"
    PACKED = "(logp, old_logp, advantage, segment_ids, num_sequences) -> loss"
    ADVANTAGE = "(rewards, group_ids) -> advantages"
    SEQUENCE_FRACTION = "(logp, old_logp, advantage, mask) -> share of clipped responses"
    TOKEN_FRACTION = "(logp, old_logp, advantage, mask) -> share of clipped tokens"
    OBJECTIVE = "() -> an Objective with a wrong part"


@dataclass(frozen=True)
class Mutant:
    """A wrong loss, and the law that must detect it."""

    loss: Callable[..., Any]
    law: str
    """The name of the law."""
    like: Any = LIKE
    """An Objective, or for advantages a Normaliser."""
    seen: str = ""
    """Public code or issues with this mistake; empty if it is only plausible."""
    names: Names = field(default_factory=Names)
    """Argument names of the loss."""
    claims: frozenset[Claim] = frozenset()
    """Claims of the loss besides those of `like`."""
    kind: MutantKind = MutantKind.LOSS
    says: str = field(kw_only=True)
    """Words of the first sentence that a check says about it."""

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.loss.__name__)


def not_so(law: str) -> str:
    """The first sentence where a law says better what is wrong than any formula could."""
    return f"not so: {law}"


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


def is_clipped(x: A, a: A) -> A:
    """Whether a unit with log ratio x and advantage a is clipped."""
    return ((a > 0) & (x > np.log1p(HIGH))) | ((a < 0) & (x < np.log1p(-LOW)))


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
    """Eq. 5, correct: every mutant differs from it in one point."""
    return mean(gain(log_s(logp, old, mask), a), mask, denominator)


def gspo_weight(logp: A, old: A, a: A, mask: A) -> A:
    """[N, T] the gradient of `gspo`, correct."""
    x = log_s(logp, old, mask)
    unit = np.where(is_clipped(x, a), 0.0, -a * np.exp(np.minimum(x, 50.0))) / size(mask) / max(1, mask.any(axis=1).sum())
    return np.where(mask, unit[:, None], 0.0)


def right(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Value and gradient of `gspo`, correct."""
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask))
