"""The KL estimators, random triples of policies, and one way to run the core on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.cases import Batch
from support.libraries import Library

from gspo_core import Padded, SequenceMean, TokenKL, TokenMean, kl_penalty
from gspo_core.kl import K1, K2, K3, Capped, KAbs, KLPenalty, SequenceK2, SequenceKL

ESTIMATORS = [K1(), K2(), K3(), TokenKL(), SequenceKL(), SequenceK2(), KAbs()]
by_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
with_and_without_a_cap = pytest.mark.parametrize("estimator", [*ESTIMATORS, *(Capped(k, 1.0) for k in ESTIMATORS)], ids=repr)


@dataclass(frozen=True)
class Policies:
    """Token log-probs of three policies, masked slots poisoned."""

    logp: np.ndarray
    ref: np.ndarray
    old: np.ndarray
    mask: np.ndarray

    def poisoned(self, poison: float) -> Policies:
        """Other rubbish in the masked slots."""
        fill = (poison, -poison, poison)
        arrays = (np.where(self.mask, x, f) for x, f in zip((self.logp, self.ref, self.old), fill, strict=True))
        return Policies(*arrays, self.mask)


def policies(batch: Batch, seed: int) -> Policies:
    """The batch's two policies, and a reference some way off."""
    rng = np.random.default_rng(seed)
    clean = batch.clean()
    ref = clean.logp + 10.0 ** rng.uniform(-4, 0.5) * rng.normal(size=batch.mask.shape)
    return Policies(clean.logp, ref, clean.old_logp, batch.mask).poisoned(np.nan)


def term(library: Library, estimator: Any, p: Policies, over_tokens: bool = False, dtype: type = np.float64) -> KLPenalty:
    """The core's, on one library, as NumPy arrays."""
    logp, ref, old = (library.array(x.astype(dtype)) for x in (p.logp, p.ref, p.old))
    out = kl_penalty(
        estimator,
        logp,
        ref,
        Padded(library.array(p.mask)),
        reduction=TokenMean() if over_tokens else SequenceMean(),
        old_logp=old if estimator.off_policy else None,
    )
    return KLPenalty(*(library.numpy(x) for x in out if x is not None))


def reductions_of(estimator: Any) -> list[bool]:
    """Mean over sequences, and over tokens where the units are tokens."""
    return [False, True] if estimator.per_token else [False]


def largest_units(p: Policies) -> float:
    """The largest |X|, |D| or |X + D| of a sequence."""
    sums = [np.abs(np.where(p.mask, a - b, 0.0)).sum(axis=1).max(initial=0.0) for a, b in ((p.ref, p.logp), (p.logp, p.old))]
    return float(sum(sums))
