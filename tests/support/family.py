"""Every preset, and DualClip in GRPO's place, beside scalar loops that judge it.

A published formula has loops of its own in `support.oracles.family`, with the paper's numbers written into them. A preset
without such loops is judged by those of `gspo_core.laws`, which are composed from its ratio, surrogate, reduction and gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from support.budgets import assert_within
from support.cases import Batch
from support.oracles import family as oracle_family

from gspo_core import GRPO, Loss, Objective, SequenceToken
from gspo_core.laws.kit import oracle
from gspo_core.objectives import PRESETS, DualClip, GammaWeight, ProductToken, SoftGate, TruncatedWeight, Unclipped


@dataclass(frozen=True)
class Member:
    """An objective and the name of its formula in `support.oracles.family`, if it has one there."""

    name: str
    objective: Objective

    @property
    def per_token(self) -> bool:
        """Whether a unit is a token."""
        return self.objective.ratio.per_token

    @property
    def has_an_edge(self) -> bool:
        """Whether something sets gradients to exactly 0 where the policy has moved far."""
        smooth = (SoftGate, TruncatedWeight, GammaWeight, Unclipped)
        return self.objective.gate is not None or not isinstance(self.objective.surrogate, smooth)

    @property
    def exact(self) -> bool:
        """Whether the weight is the derivative of the value (that of a ratio with a held s_i or ρ_i is another function's)."""
        return self.objective.surrogate.exact and not isinstance(self.objective.ratio, (SequenceToken, ProductToken))

    def advantage(self, batch: Batch, per_token: bool) -> np.ndarray:
        """[N], or [N, T] where the ratio takes that."""
        return batch.token_advantage if per_token and self.per_token else batch.advantage

    def judged(self, batch: Batch, advantage: np.ndarray, logp: np.ndarray | None = None) -> oracle.ScalarLoss:
        """The oracle's verdict, at other log-probs if given."""
        at_tokens = np.repeat(advantage[:, None], batch.mask.shape[1], axis=1) if advantage.ndim == 1 else advantage
        logp = batch.logp if logp is None else logp
        rows = (logp.tolist(), batch.old_logp.tolist(), at_tokens.tolist(), batch.mask.tolist())
        method = oracle_family.METHODS.get(self.name)
        return oracle.scalar_loss(self.objective, *rows) if method is None else oracle_family.judge(method, *rows)

    def rounding(self, batch: Batch, eps: float) -> float:
        """What a token's log ratio is off by, in nats: its own rounding, and its share of that of a sum of T of them."""
        d = np.abs(batch.clean().logp - batch.clean().old_logp)
        return eps * (batch.mask.shape[1] + 1) * float(np.max(d, initial=0.0))

    def assert_judged(self, loss: Loss, batch: Batch, advantage: np.ndarray) -> None:
        """The loss is the oracle's: value, weight, log ratio and silence, each within what rounding may cost.

        Log ratios that are off by `rounding` move the oracle's own weights, and the value by no more than the sum of weights
        and of their moves; exp and the sums add a few units each.
        """
        info, verdict = np.finfo(loss.value.dtype), self.judged(batch, advantage)
        eps, tiny = float(info.eps), 1e18 * float(info.tiny)  # φ and sech² reach 0 through numbers that have lost digits
        off = self.rounding(batch, eps)
        weight = np.asarray(verdict.weight)
        moves = [np.abs(np.asarray(self.judged(batch, advantage, batch.logp + s * off).weight) - weight) for s in (-1, 1)]
        moved = np.maximum(*moves)
        allowed = 2 * (moved + off * np.abs(weight)).sum() + (batch.mask.size + 16) * eps * verdict.scale
        assert_within(loss.value, verdict.value, allowed + tiny)
        assert_within(loss.logp_grad, weight, 2 * moved + 16 * eps * np.abs(weight) + tiny)
        assert_within(loss.log_ratio, verdict.log_ratio, 2 * batch.mask.shape[1] * off)
        units = np.abs(weight if self.per_token else weight.sum(axis=1))
        settled = (units == 0) | (units > tiny)
        assert (loss.clipped == np.asarray(verdict.clipped, dtype=bool))[settled].all()

    def is_clear_of_kinks(self, batch: Batch, advantage: np.ndarray, distance: float) -> bool:
        """No gate opens or closes if all log ratios move together by up to `distance`."""
        base = np.asarray(self.judged(batch, advantage).weight) != 0
        return all(
            ((np.asarray(self.judged(batch, advantage, batch.logp + shift).weight) != 0) == base).all()
            for shift in distance * np.array([-1.0, -0.5, 0.5, 1.0])
        )


MEMBERS = [Member(name, value) for name, value in PRESETS.items()]
MEMBERS.append(Member("DUAL_CLIP", replace(GRPO, surrogate=DualClip(0.2, 0.2, 3.0))))
EXACT = [member for member in MEMBERS if member.exact]
by_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)


def largest(batch: Batch) -> float:
    """max |Σ_t d|, at least max |d|: what log ratios of any member are rounded in proportion to."""
    d = np.abs(batch.clean().logp - batch.clean().old_logp)
    return float(max(np.max(d, initial=0.0), np.max(d.sum(axis=1), initial=0.0)))
