"""One way to measure a batch on any library, and the budget of each number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from support.budgets import REL64, assert_within
from support.cases import Batch
from support.family import Member
from support.libraries import Library
from support.oracles import metrics as oracle_metrics

from gspo_core import Objective, Padded, batch_metrics, policy_loss
from gspo_core.layouts import Layout
from gspo_core.metrics import Metrics


def on_layout(objective: Objective, logp: Any, old: Any, advantage: Any, layout: Layout, denominator: Any = None) -> Metrics:
    """The metrics of arrays that are already where they belong, beside their loss."""
    loss = policy_loss(objective, logp, old, advantage, layout, denominator=denominator)
    return batch_metrics(objective, loss, logp, old, advantage, layout)


def measured(library: Library, objective: Objective, batch: Batch, advantage: np.ndarray, denominator: Any = None) -> Metrics:
    """`on_layout` of a padded batch in float64."""
    arrays = [library.array(x) for x in (batch.logp, batch.old_logp, advantage)]
    return on_layout(objective, *arrays, Padded(library.array(batch.mask)), denominator)


def at_tokens(batch: Batch, advantage: np.ndarray) -> list[list[float]]:
    """Advantages at every slot."""
    if advantage.ndim == 2:
        return advantage.tolist()
    return np.repeat(advantage[:, None], batch.mask.shape[1], axis=1).tolist()


def judged(member: Member, batch: Batch, advantage: np.ndarray) -> tuple[dict[str, float], float]:
    """The oracle's numbers, and Σ |terms| of the loss."""
    verdict = member.judged(batch, advantage)
    rows = (batch.logp.tolist(), batch.old_logp.tolist(), at_tokens(batch, advantage), batch.mask.tolist())
    per_token = member.objective.ratio.per_token
    return oracle_metrics.batch(verdict, per_token, *rows), verdict.scale


def vectors(metrics: Metrics, library: Library) -> list[np.ndarray]:
    """As NumPy arrays."""
    return [library.numpy(x) for x in metrics]


def assert_numbers(actual: dict[str, float], expected: dict[str, float], scale: float, loss_scale: float = 0.0) -> None:
    """Every number of `expected`, and no others but quantiles. `scale` is the largest |d|, `loss_scale` Σ |terms| of the loss.

    Design effect and unlikeness are quotients of variances: they are compared where the variance is one, not rounding.
    """
    quotients = ("design_effect", "unlikeness")
    names = {name for name in expected if not name.endswith(quotients)}
    assert {name for name in actual if "_q" not in name and not name.endswith(quotients)} == names
    for name in names:
        assert_within(actual[name], expected[name], _budget(name, expected, scale, loss_scale))
    for prefix in ("", "sampler_"):
        for name in (f"{prefix}{quotient}" for quotient in quotients):
            if expected.get(f"{prefix}token_std", 0.0) > 1e-3 * scale and name in expected:
                assert_within(actual[name], expected[name], 1e-8 * max(1.0, expected[name]))


def _budget(name: str, expected: dict[str, float], scale: float, loss_scale: float) -> float:
    """What rounding may cost.

    Means and extremes of log ratios round in proportion to the largest |d|. A variance is off by at most 1e-12 (0.09 scale)²,
    the squares inside a bin: its root by 1e-8 scale if the variance vanishes, by 1e-12 scale if it is not small. e^d turns
    an error of d into a relative one, and k3 = e^d − 1 − d cancels down to that of d. The rest is relative.
    """
    value = abs(expected[name])
    relative = 10 * REL64 * value * (1 + scale)
    if name == "loss":
        return 10 * REL64 * loss_scale * (1 + scale)
    if name == "advantage_mean":
        return REL64 * expected["advantage_abs_mean"]
    if "mass_gap" in name:  # its error is the root of a difference of squares that may cancel
        return (1e-7 if name.endswith("error") else REL64 * (1 + scale)) * math.exp(min(scale, 20.0))
    if name.endswith(("log_s_std", "token_std")):
        return 1e-8 * scale if value < 1e-4 * scale else 1e-11 * scale
    if "log_" in name:
        return REL64 * scale
    return relative + ("kl_" in name) * REL64 * scale * expected.get("length_max", 10.0)


def token_arrays(batch: Batch) -> list[np.ndarray]:
    """What has a token axis."""
    return [batch.logp, batch.old_logp, batch.token_advantage]


def pack(batch: Batch, hole: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """(segment_ids, token arrays) with every slot kept; masked ones belong to nobody."""
    ids = np.where(batch.mask, np.arange(len(batch.mask))[:, None], hole).reshape(-1)
    return ids, [x.reshape(-1) for x in token_arrays(batch)]
