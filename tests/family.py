"""Every preset, and DualClip in GRPO's place, beside its scalar judge."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import oracle_family
import pytest
from cases import Batch
from oracle import Verdict

from gspo_core import GRPO, DualClip, Objective, presets

PRESETS = {name: value for name, value in vars(presets).items() if isinstance(value, Objective)}


@dataclass(frozen=True)
class Member:
    """An objective and its method in `oracle_family`."""

    name: str
    objective: Objective
    method: oracle_family.Method

    @property
    def exact(self) -> bool:
        """Whether the weight is the derivative of the value (GSPO-token's is that of another function: s_i held)."""
        return self.objective.surrogate.exact and self.name != "GSPO_TOKEN"

    def advantage(self, batch: Batch, per_token: bool) -> np.ndarray:
        """[N], or [N, T] where the ratio takes that."""
        return batch.token_advantage if per_token and self.method.per_token else batch.advantage

    def judged(self, batch: Batch, advantage: np.ndarray, logp: np.ndarray | None = None) -> Verdict:
        """The oracle's verdict, at other log-probs if given."""
        at_tokens = np.repeat(advantage[:, None], batch.mask.shape[1], axis=1) if advantage.ndim == 1 else advantage
        logp = batch.logp if logp is None else logp
        rows = (logp.tolist(), batch.old_logp.tolist(), at_tokens.tolist(), batch.mask.tolist())
        return oracle_family.judge(self.method, *rows)

    def is_clear_of_kinks(self, batch: Batch, advantage: np.ndarray, distance: float) -> bool:
        """No gate opens or closes if all log ratios move together by up to `distance`."""
        base = np.asarray(self.judged(batch, advantage).weight) != 0
        return all(
            ((np.asarray(self.judged(batch, advantage, batch.logp + shift).weight) != 0) == base).all()
            for shift in distance * np.array([-1.0, -0.5, 0.5, 1.0])
        )


MEMBERS = [Member(name, value, oracle_family.METHODS[name]) for name, value in PRESETS.items()]
MEMBERS.append(Member("DUAL_CLIP", replace(GRPO, surrogate=DualClip(0.2, 0.2, 3.0)), oracle_family.METHODS["DUAL_CLIP"]))
EXACT = [member for member in MEMBERS if member.exact]
by_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)


def largest(batch: Batch) -> float:
    """max |Σ_t d|, at least max |d|: what log ratios of any member are rounded in proportion to."""
    d = np.abs(batch.clean().logp - batch.clean().old_logp)
    return float(max(np.max(d, initial=0.0), np.max(d.sum(axis=1), initial=0.0)))
