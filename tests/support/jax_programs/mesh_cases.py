"""A batch for a 2 × 2 × 2 mesh of devices, data × context × tensor, and its loss and gradients from all logits, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, Objective, Padded, SequenceMean, Turns, policy_loss
from gspo_core.layouts import Layout
from gspo_core.objectives import DAPO, Turn, TurnMean, TurnToken

N, T, WIDTH, ROWS, VOCABULARY, TURNS = 4, 6, 5, 14, 13, 2
"""Two sequences, three columns and seven rows of the head to a rank; the head's last row is padding."""
NARROW = Clip(1e-3, 1e-3)


@dataclass(frozen=True)
class Case:
    """An objective in a layout."""

    name: str
    objective: Objective
    packed: bool = False
    per_token: bool = False
    """One advantage per token."""
    linear: bool = False
    """linear_policy_loss instead of token_logp and policy_loss."""
    terms: bool = False
    """With a KL term, whose reference is the old policy, and an entropy bonus."""

    @property
    def turns(self) -> bool:
        """Whether the layout must know turns."""
        return isinstance(self.objective.ratio, (Turn, TurnToken))


CASES = [
    Case("GSPO padded", replace(GSPO, surrogate=NARROW)),
    Case("GSPO-token padded, token advantages", replace(GSPO_TOKEN, surrogate=NARROW), per_token=True),
    Case("GRPO padded", replace(GRPO, surrogate=NARROW)),
    Case("turns padded", Objective(Turn(), NARROW, TurnMean())),
    Case("GSPO packed", replace(GSPO, surrogate=NARROW), packed=True),
    Case("DAPO packed, token advantages", replace(DAPO, surrogate=NARROW), packed=True, per_token=True),
    Case("turns packed", Objective(TurnToken(), NARROW, SequenceMean()), packed=True),
    Case("GSPO padded, linear", replace(GSPO, surrogate=NARROW), linear=True),
    Case("DAPO packed, token advantages, linear", replace(DAPO, surrogate=NARROW), packed=True, per_token=True, linear=True),
    Case("turns packed, linear", Objective(Turn(), NARROW, TurnMean()), packed=True, linear=True),
    Case("GSPO padded, terms", replace(GSPO, surrogate=NARROW), linear=True, terms=True),
    Case("DAPO packed, terms", replace(DAPO, surrogate=NARROW), packed=True, linear=True, terms=True),
]
BY_NAME = {case.name: case for case in CASES}
BETA, BONUS = 0.3, 0.2
"""Coefficients of the terms."""

LENGTHS = {
    "uneven": (6, 2, 1, 5),
    "no token on a context rank": (3, 2, 1, 0),
    "no sequence on a data rank": (0, 0, 4, 6),
    "nothing": (0, 0, 0, 0),
}
"""A rank of the context axis has the first or the last three columns; in a packed layout half of its data rank's tokens."""
NAMED_SHARDING = ("GSPO padded", "DAPO packed, token advantages, linear")
"""Cases that also go through plain jit: both layouts, losses on log-probs and on states."""
UNCHECKED = ("turns packed, linear", "GSPO padded, terms")
"""Cases that also go through meshes that are not checked."""
FLOAT32 = ("GSPO padded, terms",)
SECOND = ("GSPO padded, terms",)
"""Cases whose second derivatives are taken; those of losses on log-probs are in on_eight_devices.py."""
EXCHANGES = ("GSPO padded", "GRPO padded", "turns packed", "GSPO padded, linear", "GSPO padded, terms")
"""Cases whose exchanges are counted."""
_EVERY_WAY = [
    *(case.name for case in CASES),
    *(f"{name}, NamedSharding" for name in NAMED_SHARDING),
    *(f"{name}, unchecked" for name in UNCHECKED),
    "GSPO padded, gradients inside",
    "GSPO padded, gradients inside, unchecked: four times",
    "GSPO padded, explicit axes",
    "GSPO padded, no row on a tensor rank",
]
CLAIMS = [f"mesh: {name}: {variant}" for name in _EVERY_WAY for variant in LENGTHS]
CLAIMS += [f"mesh: {name}, float32" for name in FLOAT32]
CLAIMS += [f"mesh: {name}, Hessian times a vector" for name in SECOND]
CLAIMS += [f"mesh: {name}, exchanges" for name in EXCHANGES]
CLAIMS += [f"mesh: {case.name} is not vacuous" for case in CASES]
"""What on_a_mesh must say."""


class Batch(NamedTuple):
    """Padded, NumPy. Masked slots hold numbers that would show."""

    hidden: Any
    lm_head: Any
    tokens: Any
    old_logp: Any
    advantage: Any
    mask: Any
    turn_ids: Any


class Answer(NamedTuple):
    """A loss on hidden states and its gradients."""

    value: Any
    hidden: Any
    lm_head: Any
    """[ROWS, WIDTH], 0 in rows beyond the vocabulary."""
    clipped: Any


def batch(variant: str, case: Case, vocabulary: int = VOCABULARY, dtype: Any = np.float64) -> Batch:
    """Log ratios of a few 1e-3, so that some units are clipped and some are not; numbers that `dtype` holds exactly."""
    rng = np.random.default_rng(7)
    mask = np.arange(T)[None, :] < np.array(LENGTHS[variant])[:, None]
    hidden, lm_head = rng.normal(size=(N, T, WIDTH)), rng.normal(size=(ROWS, WIDTH))
    tokens = rng.integers(0, vocabulary, (N, T)).astype(np.int32)
    hidden, lm_head = (x.astype(dtype) for x in (hidden, lm_head))
    log_p = _log_softmax(hidden.astype(np.float64), lm_head[:vocabulary].astype(np.float64))
    logp = np.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    drift = np.array([3e-3, 2e-4, -2e-3, -3e-4])[:, None] + 4e-4 * rng.normal(size=(N, T))
    advantage = rng.normal(size=(N, T)) if case.per_token else np.array([1.0, -1.5, 0.5, -2.0])
    turn_ids = (np.arange(T)[None, :] + np.arange(N)[:, None]) // 2 % TURNS
    return Batch(
        np.where(mask[..., None], hidden, dtype(np.nan if case.linear else 1e3)),
        lm_head,
        np.where(mask, tokens, 0),
        np.where(mask, (logp - drift).astype(dtype), np.nan),
        advantage.astype(dtype),
        mask,
        turn_ids.astype(np.int32),
    )


def _log_softmax(hidden: Any, lm_head: Any) -> Any:
    z = hidden @ lm_head.T
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def answer(case: Case, b: Batch, vocabulary: int = VOCABULARY, dtype: Any = np.float64) -> Answer:
    """From all logits, everything in `dtype`: with float64 the truth, with float32 what naive code has on one device."""
    b = Batch(*(x.astype(dtype) if x.dtype.kind == "f" else x for x in b))
    hidden, lm_head = np.where(b.mask[..., None], b.hidden, dtype(0)), b.lm_head[:vocabulary]
    log_p = _log_softmax(hidden, lm_head)
    logp = np.take_along_axis(log_p, b.tokens[..., None], axis=-1)[..., 0]
    layout: Layout = Padded(b.mask)
    layout = Turns(layout, b.turn_ids, TURNS) if case.turns else layout
    loss = policy_loss(case.objective, logp, b.old_logp, b.advantage, layout)
    value, weight, d_entropy = loss.value, loss.logp_grad, np.zeros_like(log_p)
    if case.terms:
        share = case.objective.reduction.weights(layout, True, loss.denominator)
        entropy = -np.sum(np.exp(log_p) * log_p, axis=-1)
        old = np.where(b.mask, b.old_logp, logp)
        # K3 with x = log π_old − log π: value eˣ − 1 − x, slope 1 − eˣ.
        value = value + np.sum(share * (BETA * (np.expm1(old - logp) - (old - logp)) - BONUS * entropy))
        weight = weight - BETA * share * np.expm1(old - logp)
        d_entropy = BONUS * share[..., None] * np.exp(log_p) * (log_p + entropy[..., None])
    hit = np.arange(vocabulary) == b.tokens[..., None]
    d_logits = weight[..., None] * (hit - np.exp(log_p)).astype(dtype) + d_entropy
    d_head = np.zeros(b.lm_head.shape, dtype=dtype)
    d_head[:vocabulary] = np.einsum("ntv,nth->vh", d_logits, hidden)
    return Answer(value, d_logits @ lm_head, d_head, loss.clipped)
